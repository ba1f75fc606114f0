// Loaded before every test file (bunfig.toml, [test] preload). It ends every process that the tests have
// started, and removes its data, after the last test and on Ctrl-C.
//
// `bun test` emits `exit` only where something calls `process.exit`, and an `afterAll` in a test file ends with that file.
import { afterAll } from "bun:test";
import { stopAll } from "./servers.ts";

afterAll(stopAll);
process.on("SIGINT", () => process.exit(130));
process.on("SIGTERM", () => process.exit(143));
