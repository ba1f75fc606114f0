/**
 * The service account of the worker VMs, and the firewall rules for it. Rules go by the account because a machine cannot
 * give itself an account, as it could a tag.
 *
 *     out    RabbitMQ 5672 · Redis 6379 · Google's services 443 (images, secrets, logs)      nothing else
 *     in     probes of the group's health check 9090 · SSH through Google's proxy            nothing else
 *
 * By default a VPC lets everything out and nothing in, so only the outward rules need one that denies the rest. DNS and the
 * VM's own token come from 169.254.169.254, which no rule can block.
 */
import { ComputeFirewall } from "@cdktf/provider-google/lib/compute-firewall/index.js";
import { ServiceAccount } from "@cdktf/provider-google/lib/service-account/index.js";
import { TerraformVariable } from "cdktf";
import type { Construct } from "constructs";
import { GOOGLE_SERVICES, type Network } from "./network.ts";
import type { Settings } from "./settings.ts";
import { NAME, Stack } from "./stack.ts";

/** The port of a worker's /healthz. */
export const HEALTH_PORT = 9090;
const HEALTH_PROBES = ["35.191.0.0/16", "130.211.0.0/22"];
/** Identity-Aware Proxy: `gcloud compute ssh --tunnel-through-iap`. */
const SSH_PROXY = ["35.235.240.0/20"];

export class Firewalls extends Stack {
  readonly workerAccount: ServiceAccount;

  constructor(scope: Construct, settings: Settings, network: Network) {
    super(scope, "firewalls", settings);
    this.workerAccount = new ServiceAccount(this, "workers", {
      accountId: `${NAME}-workers`,
      displayName: "Sobel: worker VMs",
    });
    const rabbitmq = address(this, "rabbitmq");
    const redis = address(this, "redis");
    const workers = { network: network.network.id, targetServiceAccounts: [this.workerAccount.email] };
    const tcp = (port: number) => [{ protocol: "tcp", ports: [String(port)] }];

    const out = (name: string, port: number, range: string) =>
      new ComputeFirewall(this, `to-${name}`, {
        ...workers,
        name: `${NAME}-workers-to-${name}`,
        direction: "EGRESS",
        priority: 1000,
        allow: tcp(port),
        destinationRanges: [range],
      });
    out("rabbitmq", 5672, `${rabbitmq}/32`);
    out("redis", 6379, `${redis}/32`);
    out("google", 443, GOOGLE_SERVICES);
    new ComputeFirewall(this, "to-nothing-else", {
      ...workers,
      name: `${NAME}-workers-to-nothing-else`,
      direction: "EGRESS",
      priority: 65_000,
      deny: [{ protocol: "all" }],
      destinationRanges: ["0.0.0.0/0"],
      logConfig: { metadata: "EXCLUDE_ALL_METADATA" }, // logs what a worker tried to reach
    });

    const into = (name: string, port: number, sourceRanges: string[]) =>
      new ComputeFirewall(this, name, {
        ...workers,
        name: `${NAME}-workers-${name}`,
        direction: "INGRESS",
        priority: 1000,
        allow: tcp(port),
        sourceRanges,
      });
    into("health", HEALTH_PORT, HEALTH_PROBES);
    into("ssh", 22, SSH_PROXY);

    this.output("worker_account", this.workerAccount.email, "the account of the worker VMs");
  }
}

/** A variable of the stack: the address of a Service for the VMs. Kubernetes assigns it, and the pipelines look it up. */
export function address(stack: Stack, server: "rabbitmq" | "redis"): string {
  const name = `${server}_address`;
  const variable = new TerraformVariable(stack, name, {
    type: "string",
    nullable: false,
    description: `IPv4 address of the Service ${server}-internal`,
  });
  variable.addValidation({
    condition: `\${can(cidrnetmask("\${var.${name}}/32"))}`,
    errorMessage: `${name}: expected the IPv4 address of the Service ${server}-internal, such as 10.10.0.5.`,
  });
  return variable.stringValue;
}
