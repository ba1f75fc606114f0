/**
 * The cluster that RabbitMQ, Redis, the coordinators and the first workers run in, the registry that its images come from,
 * and the places of the two passwords. Their values are put there by pipelines/3-services.sh, past Terraform: its state
 * would hold them in the clear.
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

/** What a node's agents need: to write logs and metrics, nothing of the project's data. */
const NODE_ROLE = "roles/container.defaultNodeServiceAccount";
/** Rights come from the account's roles alone, not from this older way of narrowing them. */
const SCOPES = ["https://www.googleapis.com/auth/cloud-platform"];
const SHIELDED = { enableSecureBoot: true, enableIntegrityMonitoring: true };

/** What the images' names begin with. */
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
    this.output("registry", registry(settings), "what the images' names begin with");
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
      // The control plane is reached by a name whose every request is checked against IAM, so there is no list of addresses
      // to keep, and no address of its own that could be tried.
      controlPlaneEndpointsConfig: {
        dnsEndpointConfig: { allowExternalTraffic: true },
        ipEndpointsConfig: { enabled: false },
      },
      datapathProvider: "ADVANCED_DATAPATH", // Dataplane V2: it is what enforces k8s/'s NetworkPolicies
      enableL4IlbSubsetting: true, // internal load balancers send to the nodes that have the pod
      enableShieldedNodes: true,
      workloadIdentityConfig: { workloadPool: `${settings.PROJECT}.svc.id.goog` },
      loggingConfig: { enableComponents: ["SYSTEM_COMPONENTS", "WORKLOADS"] },
      monitoringConfig: { enableComponents: ["SYSTEM_COMPONENTS"], managedPrometheus: { enabled: false } },
      // A cluster begins with a pool that cannot be changed later. It goes at once, and until then it is as the other one.
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
        // In total, not for each zone.
        totalMinNodeCount: settings.NODES_MIN,
        totalMaxNodeCount: settings.NODES_MAX,
        locationPolicy: "BALANCED",
      },
      // Only to begin with: from then on the autoscaler says how many there are.
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
        workloadMetadataConfig: { mode: "GKE_METADATA" }, // pods do not see the node's account
        kubeletConfig: { insecureKubeletReadonlyPortEnabled: "FALSE" },
        metadata: { "disable-legacy-endpoints": "true" },
      },
    });
  }
}
