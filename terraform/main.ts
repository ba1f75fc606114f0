/**
 * Writes the stacks as JSON, which `terraform` applies, in the order of this file:
 *
 *     PROJECT=my-project-123 bun run terraform/main.ts      writes terraform/cdktf.out/stacks/<name>/cdk.tf.json
 *
 * The numbered scripts in pipelines/ run this and `terraform`. Settings: settings.ts.
 */
import process from "node:process";
import { App } from "cdktf";
import { Firewalls } from "./firewalls.ts";
import { Gke } from "./gke.ts";
import { Network } from "./network.ts";
import { readSettings, type Settings } from "./settings.ts";
import { Workers } from "./workers.ts";

let settings: Settings;
try {
  settings = readSettings(process.env);
} catch (error) {
  console.error((error as Error).message);
  process.exit(1);
}

const app = new App({ outdir: process.env.CDKTF_OUTDIR ?? `${import.meta.dirname}/cdktf.out` });
const network = new Network(app, settings);
const gke = new Gke(app, settings, network);
const firewalls = new Firewalls(app, settings, network);
new Workers(app, settings, network, gke, firewalls);
app.synth();
