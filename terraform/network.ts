/**
 * The network of the nodes, pods and worker VMs. No machine has a public address: nodes reach the internet through NAT, and
 * Google's own services inside Google's network.
 */
import { ComputeNetwork } from "@cdktf/provider-google/lib/compute-network/index.js";
import { ComputeRouter } from "@cdktf/provider-google/lib/compute-router/index.js";
import { ComputeRouterNat } from "@cdktf/provider-google/lib/compute-router-nat/index.js";
import { ComputeSubnetwork } from "@cdktf/provider-google/lib/compute-subnetwork/index.js";
import { DnsManagedZone } from "@cdktf/provider-google/lib/dns-managed-zone/index.js";
import { DnsRecordSet } from "@cdktf/provider-google/lib/dns-record-set/index.js";
import type { Construct } from "constructs";
import type { Settings } from "./settings.ts";
import { NAME, Stack } from "./stack.ts";

/** Nodes and worker VMs. The Services for the VMs (k8s/worker-vms.yaml) admit exactly this range. */
const MACHINES = "10.10.0.0/20";
const PODS = { rangeName: "pods", ipCidrRange: "10.20.0.0/16" };
const SERVICES = { rangeName: "services", ipCidrRange: "10.30.0.0/20" };

/** private.googleapis.com: addresses of Google's services that are routed only inside Google's network. */
export const GOOGLE_SERVICES = "199.36.153.8/30";
const GOOGLE_ADDRESSES = ["199.36.153.8", "199.36.153.9", "199.36.153.10", "199.36.153.11"];
/** Secret Manager and Logging; our images; the images of the agents in the VMs' operating system. */
const GOOGLE_DOMAINS = ["googleapis.com", "pkg.dev", "gcr.io"];

export class Network extends Stack {
  readonly network: ComputeNetwork;
  readonly subnetwork: ComputeSubnetwork;
  readonly pods = PODS.rangeName;
  readonly services = SERVICES.rangeName;

  constructor(scope: Construct, settings: Settings) {
    super(scope, "network", settings);
    this.network = new ComputeNetwork(this, "network", {
      name: NAME,
      autoCreateSubnetworks: false,
      routingMode: "REGIONAL",
    });
    this.subnetwork = new ComputeSubnetwork(this, "subnetwork", {
      name: NAME,
      network: this.network.id,
      ipCidrRange: MACHINES,
      secondaryIpRange: [PODS, SERVICES],
      privateIpGoogleAccess: true,
    });
    const router = new ComputeRouter(this, "router", { name: NAME, network: this.network.id });
    // For the images of RabbitMQ and Redis, which are on Docker Hub.
    new ComputeRouterNat(this, "nat", {
      name: NAME,
      router: router.name,
      natIpAllocateOption: "AUTO_ONLY",
      sourceSubnetworkIpRangesToNat: "LIST_OF_SUBNETWORKS",
      subnetwork: [{ name: this.subnetwork.id, sourceIpRangesToNat: ["ALL_IP_RANGES"] }],
      logConfig: { enable: true, filter: "ERRORS_ONLY" },
    });
    for (const domain of GOOGLE_DOMAINS) this.#keepInside(domain);
  }

  /** Resolves the names of one of Google's domains to the addresses above, which a firewall rule can name. */
  #keepInside(domain: string): void {
    const id = domain.replace(".", "-");
    const zone = new DnsManagedZone(this, `${id}-zone`, {
      name: `${NAME}-${id}`,
      dnsName: `${domain}.`,
      visibility: "private",
      privateVisibilityConfig: { networks: [{ networkUrl: this.network.id }] },
    });
    const record = { managedZone: zone.name, ttl: 300 };
    new DnsRecordSet(this, `${id}-a`, { ...record, name: zone.dnsName, type: "A", rrdatas: GOOGLE_ADDRESSES });
    new DnsRecordSet(this, `${id}-any`, {
      ...record,
      name: `*.${zone.dnsName}`,
      type: "CNAME",
      rrdatas: [zone.dnsName],
    });
  }
}
