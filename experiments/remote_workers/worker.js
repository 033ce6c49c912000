// A worker of a study in plain JavaScript: node worker.js URL STUDY NAME [TOKEN]
// It asks for one trial at a time, keeps its lease while it evaluates, and tells what it measured, or why it failed.
const [url, study, worker, token] = process.argv.slice(2);

async function post(path, body) {
  for (let wait = 100; ; wait = Math.min(2 * wait, 5000)) {
    try {
      const headers = { "Content-Type": "application/json", ...(token && { Authorization: `Bearer ${token}` }) };
      const at = `${url}/api/v1/studies/${encodeURIComponent(study)}/${path}`;
      const answer = await fetch(at, { method: "POST", headers, body: JSON.stringify({ worker, ...body }) });
      const told = await answer.json();
      if (answer.ok || answer.status === 409) return told; // 409: the lease went to another worker
      if (answer.status < 500) throw new Error(told.detail);
    } catch (error) {
      if (error.name !== "TypeError") throw error; // the server is away: the same again changes nothing
    }
    await new Promise((done) => setTimeout(done, wait));
  }
}

async function evaluate(choices) { // yours: run it on the device
  return { accuracy: 1 - 1 / (choices.width * choices.depth), params: choices.width ** 2 * choices.depth };
}

let count = 0;
for (;;) {
  const { trials, done } = await post("ask", { count: 1, lease_s: 60 });
  if (done) break;
  for (const { number, attempt, choices } of trials) {
    const beat = setInterval(() => post("heartbeat", { lease_s: 60 }), 20_000);
    const result = { number, attempt };
    try {
      Object.assign(result, { state: "COMPLETED", measurements: await evaluate(choices) });
    } catch (error) {
      Object.assign(result, { state: "FAILED", reason: String(error) });
    }
    clearInterval(beat);
    await post("tell", { results: [result] });
    count += 1;
  }
  if (!trials.length) await new Promise((done) => setTimeout(done, 500));
}
console.log(`${worker} evaluated ${count} trials`);
