// What the scripts for clients in JavaScript share: calls by name, each with the answers it must get, and a report in JSON.

export const PICTURE = "https://example.com/photo.jpg";
export const FILM = "https://example.com/film.mp4";
export const TEXT_MODEL = "google:gemma@4-31b";

export const setting = (name) => process.env[`RUNWARE_${name.toUpperCase()}`];

export function check(holds, ...what) {
  if (!holds) throw new Error(`unexpected: ${JSON.stringify(what)}`);
}

// Return what is thrown; its text must have these parts.
export async function raises(promise, ...parts) {
  let found;
  try {
    found = await promise;
  } catch (error) {
    const text = `${error?.message ?? ""} ${JSON.stringify(error)}`;
    for (const part of parts) check(text.includes(part), part, text);
    return error;
  }
  throw new Error(`no error: ${JSON.stringify(found)}`);
}

// Run all calls side by side; print what went wrong with each, or null.
export async function report(calls, seconds = 20) {
  const run = async (call) => {
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error(`no answer within ${seconds} s`)), seconds * 1000);
    });
    try {
      await Promise.race([call(), late]);
      return null;
    } catch (error) {
      console.error(error);
      return `${error?.name ?? "Error"}: ${error?.message ?? JSON.stringify(error)}`.slice(0, 300);
    } finally {
      clearTimeout(timer);
    }
  };
  const names = Object.keys(calls).filter((name) => process.argv.length < 3 || process.argv.includes(name));
  const found = await Promise.all(names.map((name) => run(calls[name])));
  process.stdout.write(JSON.stringify(Object.fromEntries(names.map((name, at) => [name, found[at]]))) + "\n");
  process.exit(0);
}
