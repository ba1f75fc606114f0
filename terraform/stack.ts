/**
 * The base of every stack: the provider for Google Cloud, a label on all resources, and the backend of the state. When a
 * stack refers to a resource of another, Terraform reads it from the other's state.
 */
import { GoogleProvider } from "@cdktf/provider-google/lib/provider/index.js";
import { GcsBackend, LocalBackend, TerraformOutput, TerraformStack } from "cdktf";
import type { Construct } from "constructs";
import type { Settings } from "./settings.ts";

/** The name of each single resource, and the first part of all other names. */
export const NAME = "sobel";

export abstract class Stack extends TerraformStack {
  constructor(scope: Construct, name: string, { PROJECT, REGION, ZONE, STATE_BUCKET }: Settings) {
    super(scope, name);
    new GoogleProvider(this, "google", { project: PROJECT, region: REGION, zone: ZONE, defaultLabels: { app: NAME } });
    if (STATE_BUCKET) new GcsBackend(this, { bucket: STATE_BUCKET, prefix: `${NAME}/${name}` });
    else new LocalBackend(this, { path: `${import.meta.dirname}/state/${name}.tfstate` });
    this.output("deployment", `${PROJECT}/${REGION}`, "whose state this is");
  }

  /** A value that the pipelines read with `terraform output`. */
  protected output(name: string, value: string, description: string): void {
    // An output may have the name of a resource.
    new TerraformOutput(this, `output-${name}`, { value, description }).overrideLogicalId(name);
  }
}
