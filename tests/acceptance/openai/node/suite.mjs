// The unmodified `openai` package for Node against a running Shoal: SHOAL_URL=http://127.0.0.1:9000 node --test
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.env.SHOAL_URL}/v1`, apiKey: "none", maxRetries: 0 });
const ask = {
  model: "smollm2",
  messages: [{ role: "user", content: "Name three fish." }],
  max_tokens: 12,
  temperature: 0,
  seed: 7,
};

test("models are listed and found", async () => {
  const names = [];
  for await (const model of client.models.list()) names.push(model.id);
  assert.ok(names.includes("smollm2") && names.includes("minilm"));
  assert.equal((await client.models.retrieve("smollm2")).object, "model");
});

test("a chat is answered", async () => {
  const answer = await client.chat.completions.create(ask);
  assert.equal(answer.choices[0].message.role, "assistant");
  assert.ok(answer.choices[0].message.content.length > 0);
  assert.ok(answer.usage.completion_tokens <= 12);
  assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
});

test("a stream says the same as a whole answer, and its usage", async () => {
  const whole = await client.chat.completions.create(ask);
  const stream = await client.chat.completions.create({ ...ask, stream: true, stream_options: { include_usage: true } });
  let text = "";
  let reason = null;
  let usage = null;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta.content ?? "";
    reason = chunk.choices[0]?.finish_reason ?? reason;
    usage = chunk.usage ?? usage;
  }
  assert.equal(text, whole.choices[0].message.content);
  assert.equal(reason, whole.choices[0].finish_reason);
  assert.equal(usage.completion_tokens, whole.usage.completion_tokens);
});

test("the client's own accumulator understands the stream", async () => {
  const text = (await client.chat.completions.create(ask)).choices[0].message.content;
  const stop = text.trim().split(/\s+/)[1];
  const runner = client.chat.completions.stream({ ...ask, stop, logprobs: true });
  const answer = await runner.finalChatCompletion();
  assert.equal(answer.choices[0].message.content, text.slice(0, text.indexOf(stop)));
  assert.ok(answer.choices[0].logprobs.content.length > 0);
});

test("leaving a stream does not disturb the next request", async () => {
  const stream = await client.chat.completions.create({ ...ask, max_tokens: 500, stream: true });
  for await (const _ of stream) break;
  assert.ok((await client.chat.completions.create(ask)).choices[0].message.content);
});

test("a stop string ends the answer before it", async () => {
  const text = (await client.chat.completions.create(ask)).choices[0].message.content;
  const stop = text.trim().split(/\s+/)[1];
  const cut = await client.chat.completions.create({ ...ask, stop: [stop] });
  assert.equal(cut.choices[0].finish_reason, "stop");
  assert.equal(cut.choices[0].message.content, text.slice(0, text.indexOf(stop)));
});

test("a seed makes an answer repeatable", async () => {
  const warm = { ...ask, temperature: 1.5 };
  const [one, two, other] = await Promise.all([7, 7, 8].map((seed) => client.chat.completions.create({ ...warm, seed })));
  assert.equal(one.choices[0].message.content, two.choices[0].message.content);
  assert.notEqual(one.choices[0].message.content, other.choices[0].message.content);
});

test("n answers come at once", async () => {
  const answer = await client.chat.completions.create({ ...ask, temperature: 1.5, n: 3 });
  assert.deepEqual(answer.choices.map((choice) => choice.index), [0, 1, 2]);
  assert.ok(new Set(answer.choices.map((choice) => choice.message.content)).size > 1);
});

test("logprobs have tokens and alternatives", async () => {
  const answer = await client.chat.completions.create({ ...ask, logprobs: true, top_logprobs: 2 });
  const tokens = answer.choices[0].logprobs.content;
  const bytes = Buffer.from(tokens.flatMap((token) => token.bytes));
  assert.ok(bytes.toString().startsWith(answer.choices[0].message.content));
  for (const token of tokens) {
    assert.ok(token.logprob <= 0);
    assert.equal(token.top_logprobs.length, 2);
  }
});

test("a JSON schema is obeyed", async () => {
  const schema = {
    type: "object",
    properties: { name: { type: "string", maxLength: 10 }, fish: { type: "integer", minimum: 0, maximum: 99 } },
    required: ["name", "fish"],
    additionalProperties: false,
  };
  const answer = await client.chat.completions.create({
    ...ask,
    max_tokens: 100,
    response_format: { type: "json_schema", json_schema: { name: "shoal", schema, strict: true } },
  });
  const found = JSON.parse(answer.choices[0].message.content);
  assert.deepEqual(Object.keys(found).sort(), ["fish", "name"]);
  assert.equal(typeof found.name, "string");
  assert.ok(Number.isInteger(found.fish));
});

const tools = [
  {
    type: "function",
    function: {
      name: "get_weather",
      description: "The weather in a city",
      parameters: {
        type: "object",
        properties: { city: { type: "string", maxLength: 20 }, unit: { enum: ["celsius", "fahrenheit"] } },
        required: ["city", "unit"],
        additionalProperties: false,
      },
    },
  },
  { type: "function", function: { name: "clock", description: "The time of day" } },
];
const call = {
  ...ask,
  messages: [{ role: "user", content: "What is the weather in Paris?" }],
  max_tokens: 120,
  tools,
  parallel_tool_calls: false,
};

test("a required call fits its function, whole and streamed", async () => {
  const whole = (await client.chat.completions.create({ ...call, tool_choice: "required" })).choices[0];
  assert.equal(whole.finish_reason, "tool_calls");
  assert.equal(whole.message.content, null);
  assert.equal(whole.message.tool_calls.length, 1);
  const runner = client.chat.completions.stream({ ...call, tool_choice: "required" });
  const streamed = (await runner.finalChatCompletion()).choices[0];
  assert.equal(streamed.finish_reason, "tool_calls");
  assert.equal(streamed.message.tool_calls[0].function.name, whole.message.tool_calls[0].function.name);
  assert.equal(streamed.message.tool_calls[0].function.arguments, whole.message.tool_calls[0].function.arguments);
});

test("a named function is called", async () => {
  const named = { type: "function", function: { name: "clock" } };
  const answer = await client.chat.completions.create({ ...call, tool_choice: named });
  assert.deepEqual(answer.choices[0].message.tool_calls[0].function, { name: "clock", arguments: "{}" });
});

test("where no function helps the answer is text", async () => {
  const answer = await client.chat.completions.create({ ...call, messages: [{ role: "user", content: "Say hello." }] });
  assert.ok(answer.choices[0].message.content.length > 0);
  assert.equal(answer.choices[0].message.tool_calls, undefined);
});

test("the client's own runner calls the function and reads its result", async () => {
  const cities = [];
  const get_weather = {
    type: "function",
    function: {
      ...tools[0].function,
      parse: JSON.parse,
      function: ({ city }) => {
        cities.push(city);
        return "Sunny and 21 degrees celsius";
      },
    },
  };
  const named = { type: "function", function: { name: "get_weather" } };
  const runner = client.chat.completions.runTools({ ...call, tools: [get_weather], tool_choice: named });
  await runner.done();
  assert.equal(cities.length, 1);
  const first = await client.chat.completions.create({ ...call, tool_choice: named });
  const { message } = first.choices[0];
  const result = { role: "tool", tool_call_id: message.tool_calls[0].id, content: "Sunny and 21 degrees celsius" };
  const answer = await client.chat.completions.create({ ...call, messages: [...call.messages, message, result] });
  assert.match(answer.choices[0].message.content, /21/);
});

test("a completion goes on with its prompts", async () => {
  const answer = await client.completions.create({
    model: "smollm2",
    prompt: ["The sea is", "A fish can"],
    max_tokens: 5,
    temperature: 0,
    logprobs: 1,
  });
  assert.deepEqual(answer.choices.map((choice) => choice.index), [0, 1]);
  assert.ok(answer.choices[0].logprobs.tokens.length > 0);
});

test("embeddings are the same as numbers and as base64", async () => {
  const input = ["one fish", "two fish"];
  const packed = await client.embeddings.create({ model: "minilm", input });
  const plain = await client.embeddings.create({ model: "minilm", input, encoding_format: "float" });
  assert.equal(packed.data.length, 2);
  assert.equal(packed.data[1].embedding.length, 384);
  packed.data[1].embedding.forEach((value, at) => {
    assert.ok(Math.abs(value - plain.data[1].embedding[at]) < 1e-5);
  });
});

test("errors are the client's own classes", async () => {
  await assert.rejects(client.chat.completions.create({ ...ask, model: "nobody" }), (error) => {
    assert.ok(error instanceof OpenAI.NotFoundError);
    assert.equal(error.code, "model_not_found");
    assert.ok(error.requestID);
    return true;
  });
  await assert.rejects(client.chat.completions.create({ ...ask, messages: [] }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.param, "messages");
    return true;
  });
});

test("events with ids are read as those without, and a stream is resumed behind one", async () => {
  const streamed = { ...ask, stream: true };
  const read = async (headers) => {
    const texts = [];
    for await (const chunk of await client.chat.completions.create(streamed, { headers })) {
      texts.push(chunk.choices[0].delta.content ?? "");
    }
    return texts;
  };
  assert.equal((await read({ "last-event-id": "" })).join(""), (await read({})).join(""));
  const answer = await client.chat.completions.create(streamed, { headers: { "idempotency-key": "node" } }).asResponse();
  const [third] = (await answer.text()).match(/(?<=^id: ).+:3$/m);
  const all = await read({ "idempotency-key": "node" });
  assert.deepEqual(await read({ "last-event-id": third }), all.slice(3));
});
