/**
 * What every stack has: the provider for Google Cloud, labels by which all that is ours can be found, and a place for its
 * state. Stacks refer to each other's resources; Terraform then reads them from the other's state.
 */
import { GoogleProvider } from "@cdktf/provider-google/lib/provider/index.js";
import { GcsBackend, LocalBackend, TerraformOutput, TerraformStack } from "cdktf";
import type { Construct } from "constructs";
import type { Settings } from "./settings.ts";

/** The name of everything that there is one of, and the start of all other names. */
export const NAME = "sobel";

export abstract class Stack extends TerraformStack {
  constructor(scope: Construct, name: string, { PROJECT, REGION, ZONE, STATE_BUCKET }: Settings) {
    super(scope, name);
    new GoogleProvider(this, "google", { project: PROJECT, region: REGION, zone: ZONE, defaultLabels: { app: NAME } });
    if (STATE_BUCKET) new GcsBackend(this, { bucket: STATE_BUCKET, prefix: `${NAME}/${name}` });
    else new LocalBackend(this, { path: `${import.meta.dirname}/state/${name}.tfstate` });
  }

  /** Something that the pipelines read with `terraform output`. */
  protected output(name: string, value: string, description: string): void {
    // An output may have the name of a resource.
    new TerraformOutput(this, `output-${name}`, { value, description }).overrideLogicalId(name);
  }
}
