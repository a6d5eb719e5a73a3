// celeriac.predict from Node: node predict.js MODEL ITEM...
const celery = require("celery-node");

const url = process.env.CELERIAC_BROKER_URL || "redis://127.0.0.1:6389/0";
const client = celery.createClient(url, url, "predict.cpu");

async function main([model, ...items]) {
  const task = client.createTask("celeriac.predict");
  const result = task.applyAsync([], { model, items });
  const answers = await result.get(10000, 50); // wait 10 s at most, look every 50 ms
  console.log(JSON.stringify(answers));
}

main(process.argv.slice(2))
  .catch((error) => {
    // a failed task: exc_type is the error's name, exc_message its text
    console.error(`${error.exc_type || error.message}: ${error.exc_message || "no result"}`);
    process.exitCode = 1;
  })
  .finally(() => client.disconnect());
