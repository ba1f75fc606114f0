// Loaded before every test file (bunfig.toml, [test] preload). Its one job: whatever the tests have started is ended, and
// its data removed, after the last of them and on Ctrl-C.
//
// `bun test` emits `exit` only where something calls `process.exit`, and an `afterAll` in a test file ends with that file.
import { afterAll } from "bun:test";
import { stopAll } from "./servers.ts";

afterAll(stopAll);
process.on("SIGINT", () => process.exit(130));
process.on("SIGTERM", () => process.exit(143));
