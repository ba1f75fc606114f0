/**
 * The worker VMs: a managed group, which replaces a VM that fails or is stopped. Their number is one setting.
 *
 * A VM needs only Container-Optimized OS and its user data: a systemd unit that runs worker.sh, which reads the two
 * passwords with the VM's own account and then runs the worker's image. Neither the user data nor the state of this stack
 * contains a secret.
 */
import { readFileSync } from "node:fs";
import { ArtifactRegistryRepositoryIamMember } from "@cdktf/provider-google/lib/artifact-registry-repository-iam-member/index.js";
import { ComputeHealthCheck } from "@cdktf/provider-google/lib/compute-health-check/index.js";
import { ComputeInstanceGroupManager } from "@cdktf/provider-google/lib/compute-instance-group-manager/index.js";
import { ComputeInstanceTemplate } from "@cdktf/provider-google/lib/compute-instance-template/index.js";
import { ProjectIamMember } from "@cdktf/provider-google/lib/project-iam-member/index.js";
import { SecretManagerSecretIamMember } from "@cdktf/provider-google/lib/secret-manager-secret-iam-member/index.js";
import { type ITerraformDependable, TerraformVariable } from "cdktf";
import type { Construct } from "constructs";
import { address, type Firewalls, HEALTH_PORT } from "./firewalls.ts";
import { type Gke, registry } from "./gke.ts";
import type { Network } from "./network.ts";
import type { Settings } from "./settings.ts";
import { NAME, Stack } from "./stack.ts";

export class Workers extends Stack {
  constructor(scope: Construct, settings: Settings, network: Network, gke: Gke, { workerAccount }: Firewalls) {
    super(scope, "workers", settings);
    const { member, email } = workerAccount;
    const rights = this.#rights(settings, gke, member);
    const username = new TerraformVariable(this, "rabbitmq_username", {
      type: "string",
      nullable: false,
      description: "RabbitMQ's user, as in the Secret rabbitmq",
    });
    const environment = {
      PROJECT: settings.PROJECT,
      IMAGE: `${registry(settings)}/sobel-worker:${settings.TAG}`,
      RABBITMQ_ADDRESS: address(this, "rabbitmq"),
      RABBITMQ_USERNAME: username.stringValue,
      REDIS_ADDRESS: address(this, "redis"),
      HEALTH_PORT: String(HEALTH_PORT),
    };
    const template = this.#template(settings, network, email, userData(environment));
    const group = this.#group(settings, template, rights);
    this.output("group", group.name, "the managed instance group");
    this.output("size", String(settings.WORKERS), "the number of VMs");
  }

  #rights({ PROJECT }: Settings, gke: Gke, member: string) {
    const { location, name: repository } = gke.repository;
    const role = "roles/artifactregistry.reader";
    return [
      new ArtifactRegistryRepositoryIamMember(this, "pull", { location, repository, role, member }),
      new ProjectIamMember(this, "log", { project: PROJECT, role: "roles/logging.logWriter", member }),
      ...gke.secrets.map(
        (secret) =>
          new SecretManagerSecretIamMember(this, `read-${secret.node.id}`, {
            secretId: secret.id,
            role: "roles/secretmanager.secretAccessor",
            member,
          }),
      ),
    ];
  }

  #template(settings: Settings, network: Network, email: string, userData: string): ComputeInstanceTemplate {
    const spot = {
      provisioningModel: "SPOT",
      preemptible: true,
      automaticRestart: false,
      instanceTerminationAction: "DELETE", // the group creates another; the disk of a stopped one would still cost money
    };
    return new ComputeInstanceTemplate(this, "template", {
      namePrefix: `${NAME}-worker-`, // a template cannot be changed: Terraform creates a new one, then moves the group
      lifecycle: { createBeforeDestroy: true },
      machineType: settings.WORKER_MACHINE,
      disk: [
        {
          sourceImage: `projects/cos-cloud/global/images/family/cos-${settings.ARCHITECTURE === "arm64" ? "arm64-" : ""}stable`,
          boot: true,
          autoDelete: true,
          diskType: "pd-balanced",
          diskSizeGb: 10,
          labels: { app: NAME },
        },
      ],
      networkInterface: [{ subnetwork: network.subnetwork.id }], // no access config: no public address
      serviceAccount: { email, scopes: ["https://www.googleapis.com/auth/cloud-platform"] },
      scheduling: settings.WORKER_SPOT ? spot : { automaticRestart: true, onHostMaintenance: "MIGRATE" },
      shieldedInstanceConfig: { enableSecureBoot: true, enableVtpm: true, enableIntegrityMonitoring: true },
      metadata: {
        "user-data": userData,
        "google-logging-enabled": "true",
        "enable-oslogin": "TRUE",
        "block-project-ssh-keys": "TRUE",
        "cos-update-strategy": "update_disabled", // a VM is replaced, never updated
      },
    });
  }

  #group(
    settings: Settings,
    template: ComputeInstanceTemplate,
    rights: ITerraformDependable[],
  ): ComputeInstanceGroupManager {
    const healthCheck = new ComputeHealthCheck(this, "health", {
      name: `${NAME}-worker`,
      checkIntervalSec: 10,
      timeoutSec: 5,
      unhealthyThreshold: 6,
      httpHealthCheck: { port: HEALTH_PORT, requestPath: "/healthz" },
    });
    return new ComputeInstanceGroupManager(this, "group", {
      name: `${NAME}-workers`,
      baseInstanceName: `${NAME}-worker`,
      zone: settings.ZONE,
      targetSize: settings.WORKERS,
      version: [{ instanceTemplate: template.selfLinkUnique }],
      // The time that a VM needs to start and to pull the image.
      autoHealingPolicies: { healthCheck: healthCheck.id, initialDelaySec: 180 },
      updatePolicy: {
        type: "PROACTIVE",
        minimalAction: "REPLACE",
        maxSurgeFixed: 1,
        maxUnavailableFixed: 0,
      },
      dependsOn: rights, // a VM uses them as soon as it starts
    });
  }
}

/** `Restart=always` also covers a worker that cannot start yet, because a password or the image is missing. */
const UNIT = `[Unit]
Description=Sobel worker
Wants=network-online.target
Requires=docker.service
After=network-online.target docker.service
StartLimitIntervalSec=0

[Service]
EnvironmentFile=/etc/sobel/environment
RuntimeDirectory=sobel
RuntimeDirectoryMode=0700
ExecStart=/bin/bash /etc/sobel/worker.sh
ExecStop=/usr/bin/docker stop -t 30 sobel-worker
TimeoutStopSec=45
Restart=always
RestartSec=5
`;

/** cloud-init runs this at every start, since Container-Optimized OS recreates /etc. So the unit is started, not enabled. */
function userData(environment: Record<string, string>): string {
  const lines = Object.entries(environment).map(([name, value]) => `${name}=${value}\n`);
  const script = literal(readFileSync(`${import.meta.dirname}/worker.sh`, "utf8"));
  return `#cloud-config
write_files:
- path: /etc/sobel/environment
  permissions: "0644"
  content: |
${indented(lines.join(""))}
- path: /etc/sobel/worker.sh
  permissions: "0644"
  content: |
${indented(script)}
- path: /etc/systemd/system/sobel-worker.service
  permissions: "0644"
  content: |
${indented(literal(UNIT))}
runcmd:
- systemctl daemon-reload
- systemctl start --no-block sobel-worker.service
`;
}

const indented = (text: string) => text.trimEnd().replaceAll(/^(?=.)/gm, "    ");

/** Escapes a text for Terraform, which would interpolate a shell's `${…}`. */
const literal = (text: string) => text.replaceAll(/[$%](?=\{)/g, (sign) => sign + sign);
