// The task interface: parameters, halo, results, offers. And the built-in tasks, which equal OpenCV pixel for pixel
// (golden/tasks.jsonl, made by golden/tasks.py), however many bands there are.
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import { decode } from "fast-png";
import { transform } from "../cli/local.ts";
import { onePiece } from "../picture/picture.ts";
import {
  type DataTask,
  dataTask,
  haloOf,
  isList,
  type ListTask,
  type Params,
  type PictureTask,
  pictureTask,
  type Task,
  TaskError,
  type Values,
  wireName,
} from "../task.ts";
import { expectTask } from "../tasks/check.ts";
import { loadTasks } from "../tasks/index.ts";
import { type Offer, offerOf, taskOf } from "../tasks/offer.ts";
import { checkedValues, ParamError, queryValues, schemaOf } from "../tasks/params.ts";
import { finished, runTask } from "../tasks/run.ts";
import { expectSame, imageOf, random, read, sobelOf } from "./pictures.ts";

const tasks = await loadTasks();

setDefaultTimeout(30_000);

const golden = (name: string) => readFileSync(join(import.meta.dirname, "golden", name));

describe("parameters", () => {
  const params = {
    sigma: { type: "number", minimum: 0.5, maximum: 9, default: 2 },
    rounds: { type: "integer", minimum: 1, default: 1 },
    wide: { type: "boolean", default: false },
    edge: { type: "string", enum: ["mirror", "black"], default: "mirror" },
    note: { type: "string" },
    level: { type: "integer", minimum: 0, maximum: 255 },
  } as const satisfies Params;
  const task = { name: "some", halo: 0, params };
  const values = (query: string) => queryValues(task, new URLSearchParams(query));
  const defaults = { sigma: 2, rounds: 1, wide: false, edge: "mirror" };

  test("have types and defaults, in the order of the schema", () => {
    for (const query of ["", "workers=3&task=some", "sigma=&level=&note="]) expect(values(query)).toEqual(defaults);
    const given = values("level=7&edge=black&wide=true&sigma=.5&rounds=1e3&note=a+b");
    expect(given).toEqual({ sigma: 0.5, rounds: 1000, wide: true, edge: "black", note: "a b", level: 7 });
    expect(Object.keys(given)).toEqual(Object.keys(params));
    expect(checkedValues(task, given)).toEqual(given);
    expect(checkedValues(task, undefined)).toEqual(defaults);
  });

  test.each([
    ["sigma=0.49", "sigma: expected a number from 0.5 to 9, got 0.49"],
    ["sigma=wide", 'sigma: expected a number from 0.5 to 9, got "wide"'],
    ["sigma=0x3", 'sigma: expected a number from 0.5 to 9, got "0x3"'],
    ["sigma=1e999", "sigma: expected a number from 0.5 to 9, got Infinity"],
    ["rounds=1.5", "rounds: expected a whole number from 1, got 1.5"],
    ["wide=yes", 'wide: expected true or false, got "yes"'],
    ["edge=white", 'edge: expected one of mirror, black, got "white"'],
    ["level=256", "level: expected a whole number from 0 to 255, got 256"],
    ["size=5", 'unknown parameter "size": some has sigma, rounds, wide, edge, note, level'],
    ["sigma=2&sigma=2", "sigma: expected one value, got several"],
    ["__proto__=5", 'unknown parameter "__proto__": some has sigma, rounds, wide, edge, note, level'],
  ])("%s is refused by name", (query, sentence) => {
    expect(() => values(query)).toThrow(new ParamError(sentence));
  });

  test("in a message are checked too", () => {
    expect(() => checkedValues(task, { sigma: "2" })).toThrow('sigma: expected a number from 0.5 to 9, got "2"');
    expect(() => checkedValues(task, { note: 5 })).toThrow("note: expected a string, got 5");
    expect(() => checkedValues({ name: "bare" }, { a: 1 })).toThrow('unknown parameter "a": bare has no parameters');
    const deep = JSON.parse("[".repeat(400_000) + "]".repeat(400_000)); // deeper than JSON.stringify goes
    expect(() => checkedValues(task, { sigma: deep })).toThrow(
      new ParamError("sigma: expected a number from 0.5 to 9, got something that JSON cannot show"),
    );
  });

  test("may be lists and objects, in a query too", () => {
    const lists = {
      kernel: { type: "array", items: { type: "number", minimum: -9 }, minItems: 1, maxItems: 9, default: [1] },
      names: { type: "array", items: { type: "string", enum: ["a", "b"] } },
      found: { type: "object", hidden: true },
    } as const satisfies Params;
    const task = { name: "lists", halo: 0, params: lists };
    const of = (query: string) => queryValues(task, new URLSearchParams(query)) as Record<string, unknown>;
    expect(of("")).toEqual({ kernel: [1] });
    expect(of("kernel=0,-1, 0.5&names=a,b")).toEqual({ kernel: [0, -1, 0.5], names: ["a", "b"] });
    expect(of('kernel=[2,3]&found={"a":[1]}')).toEqual({ kernel: [2, 3], found: { a: [1] } });
    const wanted = "kernel: expected a list of 1 to 9, each a number from -9, got";
    for (const [query, sentence] of [
      ["kernel=1,x", `${wanted} [1,"x"]`],
      ["kernel=-10", `${wanted} [-10]`],
      ["kernel=1,2,3,4,5,6,7,8,9,10", `${wanted} [1,2,3,4,5,6,7,8,9,10]`],
      ["kernel=[", `${wanted} "["`],
      ["names=c", 'names: expected a list of 0 to any number, each one of a, b, got ["c"]'],
      ["found=[1]", "found: expected a JSON object, got [1]"],
    ])
      expect(() => of(query)).toThrow(new ParamError(sentence));
    expect(Object.keys(schemaOf(lists).properties)).toEqual(["kernel", "names"]);
  });

  test("are a JSON schema", () => {
    expect(schemaOf(params)).toEqual({ type: "object", properties: params, additionalProperties: false });
  });
});

const BAND_KEYS = "name, version, description, params, run, halo, channels, bandPixels";

describe("a task", () => {
  const plain = {
    name: "plain",
    halo: 2,
    run: ({ pixels, width, rows, halo }) => pixels.slice(halo * width, (halo + rows) * width),
  } satisfies Task;
  const rows = dataTask({ name: "rows", halo: 0, run: (view) => view.rows, merge: (a, b) => a + b });
  const first = { params: ["by"], task: rows, find: (data: unknown) => ({ by: Number(data) }) };
  const steps = { ...plain, params: { by: { type: "integer" }, given: { type: "integer", default: 1 } }, first };
  const band = { pixels: random(5 * 9), width: 5, height: 9, channels: 1 as const, halo: [3, 2] as [number, number] };

  test("gets exactly its own halo from a band with more", async () => {
    expectSame((await runTask(plain, band)) as Uint8Array, band.pixels.subarray(15, 35));
    await expect(runTask(plain, { ...band, halo: [1, 2] })).rejects.toThrow(
      "halo: expected at least 2 rows above and below, got 1 and 2",
    );
  });

  test.each([
    ["fewer pixels", () => new Uint8Array(19), "task plain: expected a Uint8Array of 5 × 4 pixels, got 19 bytes"],
    [
      "an array",
      () => [1, 2, 3] as unknown as Uint8Array,
      "task plain: expected a Uint8Array of 5 × 4 pixels, got Array",
    ],
    [
      "nothing",
      () => undefined as unknown as Uint8Array,
      "task plain: expected a Uint8Array of 5 × 4 pixels, got undefined",
    ],
  ])("that returns %s fails", async (_, run, sentence) => {
    await expect(runTask({ ...plain, run }, band)).rejects.toThrow(sentence);
  });

  test("may return clamped pixels, and data", async () => {
    const clamped = pictureTask({ name: "clamped", halo: 0, run: ({ pixels }) => new Uint8ClampedArray(pixels) });
    expectSame((await runTask(clamped, { ...band, halo: [0, 0] })) as Uint8Array, band.pixels);
    expect(await runTask(rows, band)).toBe("4");
  });

  test("gets the channels that it asks for, whatever a third party sent", async () => {
    const sent = { width: 1, height: 2, halo: [0, 0] as [number, number] };
    const rgba = { ...sent, channels: 4 as const, pixels: Uint8Array.of(255, 0, 0, 255, 0, 255, 0, 0) };
    const same = pictureTask({ name: "same", halo: 0, run: ({ pixels }) => pixels });
    expect(await runTask(same, rgba)).toEqual(Uint8Array.of(76, 255));
    expect(await runTask({ ...same, channels: 3 }, rgba)).toEqual(Uint8Array.of(255, 0, 0, 255, 255, 255));
    expect(await runTask({ ...same, channels: 4 }, rgba)).toEqual(rgba.pixels);
    const grey = { ...sent, channels: 1 as const, pixels: Uint8Array.of(7, 8) };
    expect(await runTask({ ...same, channels: 4 }, grey)).toEqual(Uint8Array.of(7, 7, 7, 255, 8, 8, 8, 255));
    const count = dataTask({
      name: "count",
      channels: 3,
      halo: 0,
      run: (v) => v.pixels.length,
      merge: (a, b) => a + b,
    });
    expect(await runTask(count, grey)).toBe("6");
  });

  test("that shrinks must return the pixels of its result", async () => {
    const by = (shrink: number, length: number) => {
      return runTask({ ...plain, channels: 3, shrink, run: () => new Uint8Array(length) }, band);
    };
    expect(await by(2, 2 * 3 * 3)).toHaveLength(18); // of 4 × 5 pixels
    expect(await by(3, 2 * 2 * 3)).toHaveLength(12);
    await expect(by(2, 20)).rejects.toThrow(
      "task plain: expected a Uint8Array of 3 × 2 pixels of 3 bytes, got 20 bytes",
    );
    await expect(by(257, 3)).rejects.toThrow("task plain: expected to shrink by 1 to 256, got 257");
  });

  test("may make grey of colour, in any number of bands", async () => {
    const pixels = random(5 * 9 * 3);
    const red = pictureTask({
      name: "red",
      channels: 3,
      resultChannels: 1,
      halo: 0,
      run: ({ pixels }) => pixels.filter((_, i) => i % 3 === 0),
    });
    expectTask(red);
    expect(taskOf(JSON.parse(JSON.stringify(offerOf(red))))).toMatchObject({ channels: 3, resultChannels: 1 });
    for (const bandPixels of [5, 15, 45]) {
      const image = imageOf(pixels, 5, 3, undefined, 3);
      const png = Buffer.concat(await Array.fromAsync(transform(image, red, bandPixels)));
      expectSame(
        decode(png).data as Uint8Array,
        (await runTask(red, { ...band, pixels, channels: 3, halo: [0, 0] })) as Uint8Array,
      );
      expect(decode(png)).toMatchObject({ width: 5, height: 9, channels: 1 });
    }
    const same = { ...red, run: ({ pixels }: { pixels: Uint8Array }) => pixels };
    await expect(runTask(same, { ...band, channels: 3, pixels, halo: [0, 0] })).rejects.toThrow(
      "expected a Uint8Array of 5 × 9 pixels, got 135 bytes",
    );
  });

  test("may be async", async () => {
    const later = async (view: { pixels: Uint8Array; rows: number }) => {
      await new Promise((wake) => setTimeout(wake, 1));
      return view.pixels;
    };
    const sleepy = pictureTask({ name: "sleepy", halo: 0, run: later });
    expectSame((await runTask(sleepy, { ...band, halo: [0, 0] })) as Uint8Array, band.pixels);
    const counted = dataTask({ name: "sleepy", halo: 0, run: async (v) => v.rows, merge: (a, b) => a + b });
    expect(await runTask(counted, band)).toBe("4");
    const fails = dataTask({ name: "sleepy", halo: 0, run: () => Promise.reject(new Error("no")), merge: () => 1 });
    await expect(runTask(fails, band)).rejects.toThrow("no");
  });

  test.each([1, 60, 6000, 1 << 20])("knows where its band is: the same for bands of %i pixels", async (bandPixels) => {
    const [width, height] = [60, 250];
    const threshold = (x: number, y: number) => ((x * 7 + y * 3) % 16) * 16;
    const dither = pictureTask({
      name: "dither",
      halo: 0,
      run: (view) =>
        view.pixels.map((grey, i) => (grey > threshold(i % width, view.y + Math.floor(i / width)) ? 255 : 0)),
    });
    const fade = dataTask({
      name: "fade",
      halo: 1,
      run: ({ y, height, rows }) => [[y, rows, height]],
      merge: (upper, lower) => [...upper, ...lower],
    });
    const pixels = random(width * height);
    const png = await Array.fromAsync(transform(imageOf(pixels, width, height), dither, bandPixels));
    const expected = pixels.map((grey, i) => (grey > threshold(i % width, Math.floor(i / width)) ? 255 : 0));
    expectSame(new Uint8Array(decode(Buffer.concat(png)).data), expected);
    const json = await Array.fromAsync(transform(imageOf(pixels, width, height), fade, bandPixels));
    let next = 0;
    for (const [y, rows, of] of JSON.parse(Buffer.concat(json).toString())) {
      expect([y, of]).toEqual([next, height]);
      next += rows;
    }
    expect(next).toBe(height);
  });

  const circle: Record<string, unknown> = {};
  circle.self = circle;
  test.each([
    [undefined, "undefined"],
    [Number.NaN, "NaN"],
    [{ least: Number.POSITIVE_INFINITY }, "Infinity at least"],
    [{ rows: [{ sum: 1 }, { sum: 1n }] }, "bigint at rows[1].sum"],
    [[1, undefined], "undefined at [1]"],
    [new Map([[1, 2]]), "Map"],
    [{ seen: new Set() }, "Set at seen"],
    [{ at: new Date(0) }, "Date at at"],
    [{ find: () => 5 }, "function at find"],
    [{ counts: new Uint32Array(2) }, "Uint32Array at counts: use Array.from"],
    [circle, "a circular reference at self"],
  ] as [unknown, string][])("may not return data that JSON would change: %#", async (data, got) => {
    const task = dataTask<unknown>({ name: "odd", halo: 0, run: () => data, merge: () => data });
    const sentence = `task odd: expected data that JSON can hold, got ${got}`;
    await expect(runTask(task, band)).rejects.toThrow(new TaskError(sentence));
    const whole = dataTask({ name: "odd", halo: 0, run: () => 1, merge: () => 1, finish: () => data });
    expect(() => finished(whole as DataTask, 1, {})).toThrow(new TaskError(sentence));
  });

  test("may return any data that JSON can hold", async () => {
    const data = { a: [0, -1.5, null, true, "x", [], {}], b: undefined, c: Object.create(null), d: [[1], [1]] };
    const task = dataTask<unknown>({ name: "even", halo: 0, run: () => data, merge: () => data });
    expect(await runTask(task, band)).toBe(JSON.stringify(data));
  });

  test.each([
    [undefined, "expected an export called task, got undefined"],
    [{ ...plain, name: "Plain" }, 'expected a name of lower-case letters, digits and hyphens, got "Plain"'],
    [{ ...plain, name: "muertas" }, 'expected a name of lower-case letters, digits and hyphens, got "muertas"'],
    [{ ...plain, version: 0 }, "expected a version that is a whole number from 1, got 0"],
    [{ ...plain, halo: 1.5 }, "expected a halo of 0 to 256 whole rows, or a function, got 1.5"],
    [{ ...plain, run: "later" as never }, 'expected a function run, got "later"'],
    [
      { ...plain, params: { workers: { type: "integer" } } },
      'expected a parameter name other than task, workers, bands, bandRows, got "workers"',
    ],
    [
      { ...plain, params: { by: { type: "text" as "string" } } },
      'parameter by: expected the type number, integer, boolean, string, array, object, got "text"',
    ],
    [
      { ...plain, params: { "a b": { type: "integer" } } },
      'expected a parameter name of letters, digits, _ and -, a letter first, got "a b"',
    ],
    [{ ...plain, halo: () => 257 }, "task plain: expected a halo of 0 to 256 whole rows, got 257"],
    [
      { ...plain, params: { by: { type: "integer" } }, halo: ({ by }: Values) => by },
      "task plain: expected a halo of 0 to 256 whole rows, got undefined",
    ],
    [{ ...plain, chanels: 3 } as never, `expected only ${BAND_KEYS}, first, shrink, resultChannels, got "chanels"`],
    [{ ...plain, merge: 5 as never }, "expected a function merge, got 5"],
    [{ ...plain, finish: () => 5 } as never, `expected only ${BAND_KEYS}, first, shrink, resultChannels, got "finish"`],
    [{ ...rows, finish: 5 as never }, "expected a function finish, got 5"],
    [{ ...rows, first: {} } as never, `expected only ${BAND_KEYS}, merge, finish, got "first"`],
    ...(
      [
        [{ params: ["other"] }, 'first.params to name parameters without a default, got "other"'],
        [{ params: [undefined] }, "first.params to be a list of parameters, got [null]"],
        [{ params: ["by", "given"] }, 'first.params to name parameters without a default, got "given"'],
        [{ find: 5 }, "a function first.find, got 5"],
        [{ task: plain }, 'first.task to be a data task, got "plain"'],
      ] as const
    ).map(([wrong, sentence]) => [{ ...steps, first: { ...first, ...wrong } }, `expected ${sentence}`]),
    [{ ...plain, first: 5 } as never, "expected first, if any, to be an object, got 5"],
    [{ ...steps, first: { ...first, task: {} } }, "expected a name of lower-case letters, digits and hyphens"],
    [{ ...plain, channels: 2 as never }, "expected channels that are 1, 3 or 4, got 2"],
    [{ ...plain, shrink: 0 }, "expected shrink to be a whole number from 1 to 256, or a function, got 0"],
    [{ ...plain, shrink: () => 1.5 }, "task plain: expected to shrink by 1 to 256, got 1.5"],
    [{ ...rows, shrink: 2 } as never, `expected only ${BAND_KEYS}, merge, finish, got "shrink"`],
    [{ ...plain, description: 5 as never }, "expected a description that is a string, got 5"],
    [{ ...plain, params: ["by"] as never }, 'expected params to be an object, got ["by"]'],
    [{ ...plain, params: { by: null as never } }, "parameter by: expected a schema, got null"],
    ...(
      [
        [{ description: 5 }, "a description that is a string, got 5"],
        [{ minimum: "3" }, 'bounds that are numbers, got "3"'],
        [{ maximum: Number.NaN }, "bounds that are numbers, got NaN"],
        [{ minimum: 5, maximum: 4 }, "a minimum up to the maximum 4, got 5"],
        [{ type: "string", enum: 5 }, "an enum of strings, got 5"],
        [{ type: "string", enum: [] }, "an enum of strings, got []"],
        [{ type: "string", enum: ["a", 5] }, 'an enum of strings, got ["a",5]'],
        [{ multipleOf: 2 }, 'only the keywords type, description, hidden, default, minimum, maximum, got "multipleOf"'],
        [{ enum: [1, 2] }, 'only the keywords type, description, hidden, default, minimum, maximum, got "enum"'],
        [
          { type: "string", maxLength: 5 },
          'only the keywords type, description, hidden, default, enum, got "maxLength"',
        ],
        [{ type: "boolean", minimum: 0 }, 'only the keywords type, description, hidden, default, got "minimum"'],
      ] as const
    ).map(([wrong, sentence]) => [
      { ...plain, params: { by: { type: "integer", ...wrong } as never } },
      `parameter by: expected ${sentence}`,
    ]),
    [
      { ...plain, params: { by: { type: "integer", maximum: 3, default: 4 } } },
      "default of by: expected a whole number up to 3, got 4",
    ],
  ] as [Partial<Task> | undefined, string][])("that breaks the interface is refused: %#", (task, sentence) => {
    expect(() => expectTask(task)).toThrow(sentence);
  });

  test("whose halo is a function may ask for 0 to 256 rows", () => {
    expect(haloOf({ name: "a", halo: ({ by }) => Number(by) }, { by: 256 })).toBe(256);
    for (const by of [257, -1, 1.5, Number.NaN]) {
      expect(() => haloOf({ name: "a", halo: () => by }, {})).toThrow(
        `task a: expected a halo of 0 to 256 whole rows, got ${by}`,
      );
    }
  });

  test("refuses parameters that make its halo too high", () => {
    const task = {
      name: "a",
      params: { by: { type: "integer" } },
      halo: ({ by }) => by as number,
    } satisfies Partial<Task>;
    const values = (query: string) => queryValues(task, new URLSearchParams(query));
    expect(values("by=256")).toEqual({ by: 256 });
    expect(() => values("by=257")).toThrow(
      new ParamError("expected parameters with which a has a halo up to 256 rows, got 257"),
    );
    // The task's own fault: reported when the job is made.
    expect(values("by=-1")).toEqual({ by: -1 });
    expect(values("")).toEqual({});
  });

  test("may find several parameters in a first step, which gets those that it has, too", async () => {
    const tiles = dataTask({
      name: "tiles",
      halo: 0,
      params: { size: { type: "integer", minimum: 1, default: 5 } },
      run: ({ pixels, width, y, rows, height }, { size }) => {
        const sums: number[] = new Array(Math.ceil(height / size)).fill(0);
        for (let row = 0; row < rows; row++)
          for (let x = 0; x < width; x++) sums[Math.floor((y + row) / size)] += pixels[row * width + x];
        return sums;
      },
      merge: (a: number[], b) => a.map((sum, i) => sum + b[i]),
    });
    const task = pictureTask({
      name: "relight",
      halo: 0,
      params: {
        size: { type: "integer", minimum: 1, default: 3 },
        sums: { type: "array", items: { type: "integer" }, hidden: true },
        least: { type: "integer" },
      },
      first: {
        params: ["sums", "least"],
        task: tiles,
        find: (data, { size }) => ({ sums: data as number[], least: Math.min(...(data as number[])) + size }),
      },
      run: ({ pixels, width, y }, { size, sums, least }) =>
        pixels.map((_, i) => (sums![Math.floor((y + Math.floor(i / width)) / size)] + least!) % 256),
    });
    const pixels = random(40 * 31);
    const whole = async (bandPixels: number, query = "") => {
      const values = queryValues(task, new URLSearchParams(query));
      return decode(Buffer.concat(await Array.fromAsync(transform(imageOf(pixels, 40, 3), task, bandPixels, values))))
        .data;
    };
    const sums = Array.from({ length: 11 }, (_, i) =>
      pixels.subarray(i * 120, i * 120 + 120).reduce((a, b) => a + b, 0),
    );
    const made = (least: number) =>
      Uint8Array.from({ length: 1240 }, (_, i) => (sums[Math.floor(i / 120)] + least) % 256);
    for (const bandPixels of [40, 600, 9999])
      expectSame((await whole(bandPixels)) as Uint8Array, made(Math.min(...sums) + 3));
    // What is given is not replaced.
    expectSame((await whole(600, "least=7")) as Uint8Array, made(7));
    const forgetful = { ...task, first: { ...(task as { first: object }).first, find: () => ({ sums: [] }) } } as never;
    await expect(Array.fromAsync(transform(imageOf(pixels, 40, 3), forgetful, 600))).rejects.toThrow(
      'task relight: expected find to return least, got {"sums":[]}',
    );
    const wrong = {
      ...(task as object),
      first: { ...(task as { first: object }).first, find: () => ({ sums: [], least: "1" }) },
    } as never;
    await expect(Array.fromAsync(transform(imageOf(pixels, 40, 3), wrong, 600))).rejects.toThrow(
      /^task relight: find: least: expected a .*number, got "1"$/,
    );
  });

  test("may have a halo that depends on a derived parameter", () => {
    expectTask({ ...steps, halo: ({ by }: Values) => by as number } as Partial<Task>);
  });

  test("is offered if coordinators do not need its functions; invalid offers are ignored", () => {
    expect([...tasks.values()].filter(offerOf).map(({ name }) => name)).toEqual([
      ...["half", "invert", "scharr", "sepia", "sobel"],
    ]);
    const offer = JSON.parse(JSON.stringify(offerOf({ ...plain, version: 3 })));
    expect(offer).toEqual({ name: "plain", version: 3, halo: 2 });
    const task = taskOf(offer)!;
    expect([wireName(task), haloOf(task, {})]).toEqual(["plain.3", 2]);
    const wrong = [
      { a: null },
      { a: { type: "integer", multipleOf: 2 } },
      { a: { type: "string", enum: 5 } },
      { a: { type: "number", minimum: 2, maximum: 1 } },
    ];
    const bad = [null, 5, {}, { ...offer, halo: "2" }, ...wrong.map((params) => ({ ...offer, params }))];
    for (const one of bad) expect(taskOf(one as never)).toBeNull();
    for (const wrong of [
      { merge: 5 },
      { merge: "toString" },
      { first: 5 },
      { pieces: {} },
      { shrink: "2" },
      { bandPixels: 0 },
    ])
      expect([wrong, taskOf({ ...offer, ...wrong } as never)]).toEqual([wrong, null]);
  });

  test("is offered as data: a halo by parameter, a named merge, a first step, pieces", async () => {
    const params: Params = {
      radius: { type: "integer", default: 3 },
      sigma: { type: "number", default: 1.5 },
      size: { type: "string", enum: ["3", "5"], default: "5" },
      names: { type: "array", items: { type: "string" }, default: ["a", "b"] },
    };
    const base = { name: "offered", params };
    const values = queryValues(base, new URLSearchParams());
    for (const [halo, rows] of [
      ["radius", 3],
      ["2*radius+1", 7],
      ["3 * sigma", 5],
      [{ param: "size", 3: 1, 5: 2 }, 2],
    ] as [string, number][])
      expect([halo, haloOf(taskOf({ ...base, halo })!, values)]).toEqual([halo, rows]);
    for (const halo of [
      "names",
      "wide",
      "radius*2",
      "radius-1",
      "process.exit()",
      { param: "wide" },
      { param: "size" },
    ])
      expect([halo, taskOf({ ...base, halo } as never)]).toEqual([halo, null]);
    const merged = (merge: string, ...parts: unknown[]) => {
      const task = taskOf({ ...base, halo: 0, merge }) as DataTask;
      return parts.reduce((a, b) => task.merge(a, b));
    };
    expect(merged("sum", { a: 1, b: [1, 2] }, { a: 2, b: [3, 4, 5], c: 1 })).toEqual({ a: 3, b: [4, 6, 5], c: 1 });
    expect(merged("sum", { ["__proto__"]: 1 }, JSON.parse('{"__proto__":2,"toString":1}'))).not.toBe(0);
    expect([merged("min", 3, 1, 2), merged("max", [3, 1], [2, 2])]).toEqual([1, [3, 2]]);
    expect([merged("concat", [1], [2, 3]), merged("concat", "a", "b"), merged("first", null, 2, 3)]).toEqual([
      [1, 2, 3],
      "ab",
      2,
    ]);
    expect(() => merged("sum", 1, "x")).toThrow('expected two numbers, lists or objects, got 1 and "x"');
    expect(() => merged("sum", [1], { a: 1 })).toThrow('expected two numbers, lists or objects, got [1] and {"a":1}');
    expect(() => merged("concat", 1, 2)).toThrow("expected two lists or two strings, got 1 and 2");
    const list = (pieces: object) => taskOf({ ...base, merge: "sum", pieces: pieces as never }) as ListTask;
    const made = (pieces: object) => [...(list(pieces).pieces(values, {} as never) as Iterable<unknown>)];
    expect(made({ to: "radius", step: 2 })).toEqual([
      [0, 2],
      [2, 3],
    ]);
    expect(made({ from: 5, to: 7, step: "radius" })).toEqual([[5, 7]]);
    expect(made({ each: "names" })).toEqual(["a", "b"]);
    const none = (pieces: object) => [...(list(pieces).pieces({ radius: 0 }, {} as never) as Iterable<unknown>)];
    for (const [pieces, sentence] of [
      [{ to: 5, step: "radius" }, "radius (pieces.step): expected a number from 1, got 0"],
      [{ to: "2*sigma", step: 1 }, "2*sigma (pieces.to): expected a number, got none"],
      [{ to: "radius", step: 1 }, "radius (pieces.to): expected a number above 0, got 0"],
      [{ each: "names" }, "names: expected a list of one item or more, got none"],
    ] as const)
      expect(() => none(pieces)).toThrow(new ParamError(sentence));
    const sized = taskOf({ ...base, halo: { param: "size", 3: 1, 5: 2 } })!;
    expect(() => queryValues(sized, new URLSearchParams("size=3"))).not.toThrow();
    const lacking = taskOf({ ...base, halo: { param: "size", 5: 2 } })!;
    expect(() => queryValues(lacking, new URLSearchParams("size=3"))).toThrow(
      new ParamError('size: expected one of 5, got "3"'),
    );
    expect([list({ lines: 100 }).takes, list({ bytes: 100 }).takes]).toEqual(["text", "bytes"]);
    for (const wrong of [{ to: 5 }, { lines: 0 }, { each: "radius" }, { to: "names", step: 1 }])
      expect(list(wrong)).toBeNull();
    const stepped = { ...base, halo: 0, params: { counts: { type: "array", items: { type: "integer" } } } as Params };
    const first = { param: "counts", task: "histogram" };
    const found = taskOf({ ...stepped, first }, (name) => tasks.newest(name)) as PictureTask;
    expect([found.first!.task.name, found.first!.find([1, 2], {})]).toEqual(["histogram", { counts: [1, 2] }]);
    expect(taskOf({ ...stepped, first })).toBeNull();
  });

  test.each([
    [{}, "expected halo to be a number, an expression or a table of a parameter, got undefined"],
    [{ halo: { param: "size", 3: 1 } }, /^expected halo to be .* of a parameter, got {"3":1,"param":"size"}$/],
    [
      { halo: 0, first: { params: ["n"], task: "histogram" } },
      'expected first to have param and task, got {"params":["n"],"task":"histogram"}',
    ],
    [{ halo: 0, resultchannels: 1 }, /^expected only name, .*, got "resultchannels"$/],
    [{ halo: 0, merge: "sum", pieces: { lines: 9 } }, /^expected only name, .*, got "halo"$/],
    [
      { merge: "sum", pieces: { line: 9 } },
      'expected pieces of lines, words, bytes, each, or to and step, got {"line":9}',
    ],
    [{ merge: "sum", pieces: { to: 5, step: 0 } }, "0 (pieces.step): expected a number from 1, got 0"],
    [{ merge: "sum", pieces: "lines" }, /^expected pieces of lines, .*, got "lines"$/],
    [{ merge: "sum", pieces: { to: 5 } }, /^expected pieces of .* to and step, got {"to":5}$/],
    [
      { merge: "sum", pieces: { to: "n", step: 5 } },
      'expected pieces.to to be a number or an expression of a parameter, got "n"',
    ],
  ] as [object, string | RegExp][])("is not offered, with the reason: %#", (offer, reason) => {
    const faults: string[] = [];
    expect(taskOf({ name: "odd", ...offer } as Offer, undefined, (fault) => faults.push(fault))).toBeNull();
    expect(faults).toEqual([expect.stringMatching(reason)]);
  });
});

interface Case {
  piece: [x: number, y: number, width: number, height: number];
  task: string;
  query: string;
  crc?: number;
  level?: number;
  counts?: Record<string, number>;
}

describe("the built-in tasks", () => {
  const cases: Case[] = golden("tasks.jsonl")
    .toString()
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));

  async function made({ piece: [x, y, width, height], task: name, query }: Case, rows: number): Promise<Buffer> {
    const task = tasks.newest(name)!;
    const { channels = 1 } = task;
    const scene = await read(onePiece(golden("scene.png")), undefined, channels);
    const rowBytes = width * channels;
    const pixels = new Uint8Array(height * rowBytes);
    for (let row = 0; row < height; row++) {
      const at = ((y + row) * 101 + x) * channels;
      pixels.set(scene.subarray(at, at + rowBytes), row * rowBytes);
    }
    const values = queryValues(task, new URLSearchParams(query));
    const image = imageOf(pixels, width, 7, undefined, channels);
    return Buffer.concat(await Array.fromAsync(transform(image, task, rows * width, values)));
  }

  test("have golden cases", () => {
    const named = new Set(cases.map(({ task }) => task));
    const others = tasks.names().filter((name) => !named.has(name) && !isList(tasks.newest(name)!)); // list.test.ts
    expect(others).toEqual(["sobel"]); // sobel.test.ts
  });

  test("equal OpenCV, pixel for pixel", async () => {
    for (const one of cases) {
      const bytes = await made(one, 11);
      if (one.counts) {
        const counts = Array.from({ length: 256 }, (_, grey) => one.counts![grey] ?? 0);
        expect({ ...one, counts: JSON.parse(bytes.toString()) }).toEqual({ ...one, counts } as never);
      } else {
        expect({ ...one, crc: crc32(decode(bytes, { checkCrc: true }).data as Uint8Array) }).toEqual(
          one as Required<Case>,
        );
      }
    }
  });

  test("do not depend on the number of bands", async () => {
    for (const one of cases.filter(({ piece }) => piece[2] === 33)) {
      for (const rows of [1, 2, 3, 10, 31]) {
        const bytes = await made(one, rows);
        if (one.crc)
          expect({ rows, ...one, crc: crc32(decode(bytes).data as Uint8Array) } as Case).toEqual({
            rows,
            ...one,
          } as Case);
        else expect(bytes).toEqual(await made(one, 16));
      }
    }
  });
});

test("Sobel is a task as any other", async () => {
  const pixels = random(23 * 17);
  const png = Buffer.concat(await Array.fromAsync(transform(imageOf(pixels, 23, 4), tasks.newest("sobel")!, 69)));
  expectSame(decode(png).data as Uint8Array, sobelOf(pixels, 23, 17));
});
