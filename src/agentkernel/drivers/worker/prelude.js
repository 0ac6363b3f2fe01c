// What a program finds besides the language: console, process, files, timers. Runs once in every instance, before its program.
// Its value is what the host calls: call("tick") runs due timers and says how long to wait, call("report", error) prints one.
((host) => {
  "use strict";
  const quoted = (text) => (text.includes("'") ? JSON.stringify(text) : `'${text.replaceAll("\n", "\\n")}'`);
  const key = (name) => (/^[A-Za-z_$][\w$]*$/.test(name) ? name : quoted(name));

  function inspect(value, depth, seen) {
    switch (typeof value) {
      case "string": return depth === 0 ? value : quoted(value);
      case "bigint": return `${value}n`;
      case "symbol": return value.toString();
      case "function": return `[${/^class\b/.test(String(value)) ? "class" : "Function"}: ${value.name || "(anonymous)"}]`;
      case "object": return value === null ? "null" : inside(value, depth, seen);
      default: return Object.is(value, -0) ? "-0" : String(value);
    }
  }

  function inside(value, depth, seen) {
    if (value instanceof Error) return described(value);
    if (value instanceof Date) return Number.isNaN(+value) ? "Invalid Date" : value.toISOString();
    if (value instanceof RegExp) return String(value);
    if (seen.includes(value)) return "[Circular *1]";
    if (depth > 2) return Array.isArray(value) ? "[Array]" : "[Object]";
    const deeper = (one) => inspect(one, depth + 1, [...seen, value]);
    const around = (open, parts, close) => (parts.length ? `${open} ${parts.join(", ")} ${close}` : open + close);
    if (Array.isArray(value)) return around("[", value.map(deeper), "]");
    if (ArrayBuffer.isView(value) && !(value instanceof DataView)) {
      return around(`${value.constructor.name}(${value.length}) [`, Array.from(value, deeper), "]");
    }
    if (value instanceof Map) {
      return around(`Map(${value.size}) {`, Array.from(value, ([name, one]) => `${deeper(name)} => ${deeper(one)}`), "}");
    }
    if (value instanceof Set) return around(`Set(${value.size}) {`, Array.from(value, deeper), "}");
    if (value instanceof Promise) return "Promise {}";
    const name = Object.getPrototypeOf(value)?.constructor?.name;
    const prefix = name === undefined ? "[Object: null prototype] " : name === "Object" ? "" : `${name} `;
    return around(`${prefix}{`, Object.keys(value).map((one) => `${key(one)}: ${deeper(value[one])}`), "}");
  }

  function described(error) {
    if (!(error instanceof Error)) return `Uncaught ${inspect(error, 1, [])}`;
    const stack = (error.stack || "").trimEnd();
    return `${error.name}: ${error.message}` + (stack ? `\n${stack}` : "");
  }

  const line = (values) => values.map((value) => inspect(value, 0, [])).join(" ") + "\n";
  const out = (...values) => void host("out", line(values));
  const err = (...values) => void host("err", line(values));
  const writer = (name) => ({ write: (text) => (host(name, String(text)), true) });
  const facts = () => JSON.parse(host("facts"));

  const process = {
    get argv() { return facts().argv; },
    get env() { return facts().env; },
    cwd: () => facts().cwd,
    exit(code = process.exitCode ?? 0) { host("exit", String(code)); },
    exitCode: undefined,
    platform: "wasi",
    stdout: writer("out"),
    stderr: writer("err"),
  };

  let last = 0;
  const timers = new Map();
  const after = (again) => (act, wait = 0, ...rest) => {
    const every = Math.max(1, Number(wait) || 0);
    timers.set(++last, { act, rest, due: Date.now() + every, every: again ? every : 0 });
    return last;
  };
  const clear = (number) => void timers.delete(number);

  function tick() {
    const now = Date.now();
    const due = [...timers].filter(([, timer]) => timer.due <= now).sort(([, one], [, other]) => one.due - other.due);
    if (due.length) {
      const [number, timer] = due[0];
      if (timer.every) timer.due = now + timer.every;
      else timers.delete(number);
      timer.act(...timer.rest);
      return 0;
    }
    return timers.size ? Math.max(0, Math.min(...Array.from(timers.values(), (timer) => timer.due)) - now) : -1;
  }

  Object.assign(globalThis, {
    console: { log: out, info: out, debug: out, error: err, warn: err, trace: err },
    print: out,
    process,
    readFile: (path) => host("read", String(path)),
    writeFile: (path, text) => void host("write", String(path), String(text)),
    readInput: () => host("input"),
    setTimeout: after(false),
    setInterval: after(true),
    clearTimeout: clear,
    clearInterval: clear,
  });

  return (what, value) => {
    if (what === "tick") return tick();
    if (what === "report") return void host("err", described(value) + "\n");
    return Number(process.exitCode ?? 0);
  };
})
