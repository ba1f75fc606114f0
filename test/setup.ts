// Loaded before every test file (bunfig.toml, [test] preload). Its one job: whatever the tests have started is ended
// after the last of them. `bun test` does not emit `exit`, and an `afterAll` in a test file would end with that file.
import { afterAll } from "bun:test";
import { stopAll } from "./servers.ts";

afterAll(stopAll);
