/**
 * The cluster for RabbitMQ, Redis, the coordinators and the worker pods; the registry of its images; two empty secrets for
 * the passwords.
 *
 * Not here: the values of the passwords. pipelines/3-services.sh writes them to Secret Manager, because Terraform's state
 * would contain them unencrypted.
 */
import { ArtifactRegistryRepository } from "@cdktf/provider-google/lib/artifact-registry-repository/index.js";
import { ArtifactRegistryRepositoryIamMember } from "@cdktf/provider-google/lib/artifact-registry-repository-iam-member/index.js";
import { ContainerCluster } from "@cdktf/provider-google/lib/container-cluster/index.js";
import { ContainerNodePool } from "@cdktf/provider-google/lib/container-node-pool/index.js";
import { ProjectIamMember } from "@cdktf/provider-google/lib/project-iam-member/index.js";
import { SecretManagerSecret } from "@cdktf/provider-google/lib/secret-manager-secret/index.js";
import { ServiceAccount } from "@cdktf/provider-google/lib/service-account/index.js";
import type { Construct } from "constructs";
import type { Network } from "./network.ts";
import type { Settings } from "./settings.ts";
import { NAME, Stack } from "./stack.ts";

/** For the agents of a node: to write logs and metrics, without access to the project's data. */
const NODE_ROLE = "roles/container.defaultNodeServiceAccount";
/** The widest scope, so that only the roles of the account limit access. */
const SCOPES = ["https://www.googleapis.com/auth/cloud-platform"];
const SHIELDED = { enableSecureBoot: true, enableIntegrityMonitoring: true };

/** The first part of the images' names. */
export const registry = ({ REGION, PROJECT }: Settings) => `${REGION}-docker.pkg.dev/${PROJECT}/${NAME}`;

export class Gke extends Stack {
  readonly repository: ArtifactRegistryRepository;
  readonly secrets: SecretManagerSecret[];

  constructor(scope: Construct, settings: Settings, network: Network) {
    super(scope, "gke", settings);
    this.repository = this.#registry(settings);
    this.secrets = ["rabbitmq", "redis"].map(
      (server) =>
        new SecretManagerSecret(this, `${server}-password`, {
          secretId: `${NAME}-${server}-password`,
          replication: { auto: {} },
        }),
    );
    const { account, rights } = this.#nodeAccount(settings);
    const cluster = this.#cluster(settings, network, account, rights);
    this.#pool(settings, cluster, account);

    this.output("cluster", cluster.name, "for get-credentials");
    this.output("location", cluster.location, "the cluster's zone or region");
    this.output("registry", registry(settings), "the first part of the images' names");
  }

  #registry({ PROJECT, REGION }: Settings): ArtifactRegistryRepository {
    return new ArtifactRegistryRepository(this, "repository", {
      project: PROJECT,
      location: REGION,
      repositoryId: NAME,
      format: "DOCKER",
      cleanupPolicies: [
        { id: "delete-old", action: "DELETE", condition: { tagState: "ANY", olderThan: "2592000s" } }, // 30 days
        { id: "keep-recent", action: "KEEP", mostRecentVersions: { keepCount: 10 } },
      ],
    });
  }

  #nodeAccount({ PROJECT }: Settings) {
    const account = new ServiceAccount(this, "nodes", {
      accountId: `${NAME}-nodes`,
      displayName: "Sobel: the cluster's nodes",
    });
    const { location, name: repository } = this.repository;
    const rights = [
      new ProjectIamMember(this, "nodes-role", { project: PROJECT, role: NODE_ROLE, member: account.member }),
      new ArtifactRegistryRepositoryIamMember(this, "nodes-pull", {
        location,
        repository,
        role: "roles/artifactregistry.reader",
        member: account.member,
      }),
    ];
    return { account, rights };
  }

  #cluster(
    settings: Settings,
    network: Network,
    account: ServiceAccount,
    rights: (ProjectIamMember | ArtifactRegistryRepositoryIamMember)[],
  ): ContainerCluster {
    return new ContainerCluster(this, "cluster", {
      name: NAME,
      location: settings.CLUSTER_LOCATION,
      deletionProtection: settings.DELETION_PROTECTION,
      releaseChannel: { channel: settings.RELEASE_CHANNEL },
      maintenancePolicy: { dailyMaintenanceWindow: { startTime: "03:00" } },
      network: network.network.id,
      subnetwork: network.subnetwork.id,
      networkingMode: "VPC_NATIVE",
      ipAllocationPolicy: {
        clusterSecondaryRangeName: network.pods,
        servicesSecondaryRangeName: network.services,
      },
      privateClusterConfig: { enablePrivateNodes: true },
      // The control plane has a DNS name, where IAM checks every request, and no IP address. So there is no list of allowed
      // addresses to maintain.
      controlPlaneEndpointsConfig: {
        dnsEndpointConfig: { allowExternalTraffic: true },
        ipEndpointsConfig: { enabled: false },
      },
      datapathProvider: "ADVANCED_DATAPATH", // Dataplane V2, which enforces the NetworkPolicies of k8s/
      enableL4IlbSubsetting: true, // internal load balancers send only to nodes that have the pod
      enableShieldedNodes: true,
      workloadIdentityConfig: { workloadPool: `${settings.PROJECT}.svc.id.goog` },
      loggingConfig: { enableComponents: ["SYSTEM_COMPONENTS", "WORKLOADS"] },
      monitoringConfig: { enableComponents: ["SYSTEM_COMPONENTS"], managedPrometheus: { enabled: false } },
      // A new cluster has a default pool, which cannot be changed later. It is removed at once; until then it has the account
      // of the other pool.
      removeDefaultNodePool: true,
      initialNodeCount: 1,
      nodeConfig: { serviceAccount: account.email, oauthScopes: SCOPES, shieldedInstanceConfig: SHIELDED },
      lifecycle: { ignoreChanges: ["node_config"] },
      dependsOn: rights,
    });
  }

  #pool(settings: Settings, cluster: ContainerCluster, account: ServiceAccount): void {
    new ContainerNodePool(this, "pool", {
      name: NAME,
      cluster: cluster.id,
      autoscaling: {
        // Totals, not numbers for each zone.
        totalMinNodeCount: settings.NODES_MIN,
        totalMaxNodeCount: settings.NODES_MAX,
        locationPolicy: "BALANCED",
      },
      // Only at the start: after that the autoscaler sets the number.
      initialNodeCount: settings.NODES_MIN,
      lifecycle: { ignoreChanges: ["initial_node_count"] },
      management: { autoRepair: true, autoUpgrade: true },
      upgradeSettings: { maxSurge: 1, maxUnavailable: 0 },
      nodeConfig: {
        machineType: settings.NODE_MACHINE,
        imageType: "COS_CONTAINERD",
        diskType: "pd-balanced",
        diskSizeGb: 50,
        serviceAccount: account.email,
        oauthScopes: SCOPES,
        shieldedInstanceConfig: SHIELDED,
        workloadMetadataConfig: { mode: "GKE_METADATA" }, // hides the node's account from pods
        // Without the second one, the provider of version 6 turns limits of CPU off.
        kubeletConfig: { insecureKubeletReadonlyPortEnabled: "FALSE", cpuCfsQuota: true },
        metadata: { "disable-legacy-endpoints": "true" },
      },
    });
  }
}
