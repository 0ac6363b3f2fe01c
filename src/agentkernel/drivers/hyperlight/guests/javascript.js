// What a machine runs before its snapshot is taken. The prelude is the wasm backend's, with a host behind one call.
{
  const ask = (what, ...rest) => {
    const answer = JSON.parse(call_tool("host", { request: JSON.stringify([what, ...rest]) }));
    if (answer.errno) throw new Error(`${answer.errno}: ${answer.text}`);
    return answer.value;
  };
  const MOST = 2000; // characters of a call: it carries some 16 KB, and a character may take six of them
  const say = (number, text) => {
    for (let at = 0; at < text.length; at += MOST) ask("text", number, text.slice(at, at + MOST));
  };
  const absolute = (path) => (path.startsWith("/") ? path : `${ask("program").cwd}/${path}`);
  const acts = {
    out: (text) => say(1, text),
    err: (text) => say(2, text),
    facts: () => JSON.stringify(ask("program")),
    exit: (code) => ask("leave", Number(code) & 0xff),
    read: (path) => ask("read_text", absolute(path)),
    write: (path, text) => ask("write_text", absolute(path), text),
    input: () => ask("input_text"),
  };
  const call = (PRELUDE)((what, ...rest) => acts[what](...rest));
  const console = { ...globalThis.console }; // the guest's runtime puts functions of its own there before every run
  const AsyncFunction = (async () => {}).constructor;

  globalThis.__agentkernel = async () => {
    delete globalThis.__agentkernel;
    globalThis.console = { ...console };
    const told = ask("program");
    let code = 0;
    try {
      const source = told.source ?? (told.path === undefined ? acts.input() : opened(told.path));
      await new AsyncFunction(source)();
      for (let wait = call("tick"); wait >= 0; wait = call("tick")) {
        if (wait) ask("wait", wait / 1000);
        await null;
      }
      code = call("code");
    } catch (error) {
      call("report", error);
      code = error?.usage ? 2 : 1;
    }
    ask("code", Number.isInteger(code) ? code & 0xff : 1);
  };

  function opened(path) {
    try {
      return acts.read(path);
    } catch (error) {
      throw Object.assign(new Error(`js: cannot open ${path}: ${error.message}`), { usage: true, stack: "" });
    }
  }
}
