//! What a request's fields ask for: OpenAI's of a chat completion, and ours.
//!
//! As in vLLM, a field that changes nothing about the answer (`user`, `metadata`, ..) is passed over, whether it is known or not. One that
//! would change it, and that this server does not know how to obey, is refused: an answer that looks as asked for and is not is the
//! worst of all. So is a field that is one slip away from a known one.
//!
//! Ours, beside OpenAI's: `top_k`, `repetition_penalty`; `context` and `options`, which the adapter's prompt has places for; `set`, which
//! label set is to be decided.

use serde_json::{Map, Value, json};

use super::fields::Fields;
use super::refusal::Refusal;
use super::shared::{Facts, Limits};
use crate::chat::Decide;
use crate::cli::nearest::nearest;
use crate::data::{Format, Record, kind_of_value as kind, read_text};
use crate::generate::Sampling;

/// What the model is asked.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    /// The question with what was said before.
    pub(super) record: Record,
    /// What is to be decided, by its place among the label sets.
    pub(super) set: Option<usize>,
    /// New tokens at most; none: what there is room for.
    pub(super) max_new: Option<usize>,
    /// How tokens are chosen.
    pub(super) sampling: Sampling,
    /// Texts at which the answer ends.
    pub(super) stop: Vec<String>,
}

/// A chat completion that is asked for.
#[derive(Clone, Debug)]
pub(super) struct Chat {
    /// The question.
    pub(super) ask: Ask,
    /// In pieces as they come.
    pub(super) stream: bool,
    /// A last piece with the number of tokens.
    pub(super) include_usage: bool,
}

/// Fields that are obeyed.
const KNOWN: [&str; 18] = [
    "model",
    "messages",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "top_k",
    "repetition_penalty",
    "seed",
    "stop",
    "stream",
    "stream_options",
    "n",
    "context",
    "contexts",
    "options",
    "set",
    "question",
];

/// OpenAI's and vLLM's fields that change no word of an answer.
const PASSED_OVER: [&str; 13] = [
    "user",
    "store",
    "metadata",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "parallel_tool_calls",
    "prediction",
    "reasoning_effort",
    "verbosity",
    "priority",
    "request_id",
    "add_generation_prompt",
];

/// Fields that would change the answer, with the values that change nothing.
const REFUSED: [(&str, &[&str]); 26] = [
    ("tools", &["[]"]),
    ("tool_choice", &["\"none\"", "\"auto\""]),
    ("functions", &["[]"]),
    ("function_call", &["\"none\"", "\"auto\""]),
    ("logprobs", &["false"]),
    ("top_logprobs", &["0"]),
    ("prompt_logprobs", &[]),
    ("logit_bias", &["{}"]),
    ("n", &["1"]),
    ("best_of", &["1"]),
    ("use_beam_search", &["false"]),
    ("presence_penalty", &["0", "0.0"]),
    ("frequency_penalty", &["0", "0.0"]),
    ("length_penalty", &["1", "1.0"]),
    ("min_p", &["0", "0.0"]),
    ("min_tokens", &["0"]),
    ("ignore_eos", &["false"]),
    ("stop_token_ids", &["[]"]),
    ("bad_words", &["[]"]),
    ("echo", &["false"]),
    ("response_format", &["{\"type\":\"text\"}"]),
    ("structured_outputs", &[]),
    ("modalities", &["[\"text\"]"]),
    ("audio", &[]),
    ("chat_template", &[]),
    ("continue_final_message", &["false"]),
];

/// Reads the body of `/v1/chat/completions`.
pub(super) fn chat(body: &[u8], name: &str, facts: &Facts, limits: &Limits) -> Result<Chat, Refusal> {
    let fields = Fields::parse(body, "model and messages")?;
    check(&fields, name)?;
    if fields.value("messages").is_none() {
        return Err(Refusal::bad("there is no field \"messages\", a list of what was said").param("messages"));
    }
    let record = record(&fields)?;
    let most = limits.max_new.min(facts.context) as i64;
    let asked = fields.whole("max_completion_tokens", 1..=most)?.or(fields.whole("max_tokens", 1..=most)?);
    let options = fields.object("stream_options")?;
    let include_usage = options.map(|options| options.switch("include_usage")).transpose()?.unwrap_or_default();
    let ask = Ask {
        set: set(&fields, facts, &record)?,
        record,
        max_new: asked.map(|n| n as usize),
        sampling: sampling(&fields)?,
        stop: fields.texts("stop", 16)?,
    };
    Ok(Chat { ask, stream: fields.switch("stream")?, include_usage })
}

/// Reads the body of `/classify`: a question with context and options, or messages. No token is written.
pub(super) fn classify(body: &[u8], name: &str, facts: &Facts) -> Result<Ask, Refusal> {
    let fields = Fields::parse(body, "question, or messages")?;
    check(&fields, name)?;
    if !facts.has_heads {
        return Err(Refusal::bad(format!(
            "{name} has no ECI head, so there is nothing to classify with; ask /v1/chat/completions, or serve an adapter with a head"
        ))
        .code("no_head"));
    }
    let record = record(&fields)?;
    match set(&fields, facts, &record)? {
        Some(set) => {
            Ok(Ask { record, set: Some(set), max_new: Some(0), sampling: Sampling::default(), stop: Vec::new() })
        }
        None => Err(Refusal::bad("nothing is decided about this question: no head has just its options as classes")
            .param("set")),
    }
}

/// The model's name, and the fields that cannot be obeyed.
fn check(fields: &Fields, name: &str) -> Result<(), Refusal> {
    if let Some(asked) = fields.text("model")?.filter(|asked| *asked != name) {
        let message = format!("the model {asked:?} is not served here; there is {name:?}");
        return Err(Refusal::new(axum::http::StatusCode::NOT_FOUND, message).param("model").code("model_not_found"));
    }
    for (field, neutral) in REFUSED {
        let Some(value) = fields.value(field) else { continue };
        if !neutral.contains(&value.to_string().as_str()) {
            let message =
                format!("field {field:?} is not supported, and the answer would be another without it; leave it out");
            return Err(Refusal::bad(message).param(field).code("unsupported"));
        }
    }
    let is_known = |field: &str| {
        KNOWN.contains(&field) || PASSED_OVER.contains(&field) || REFUSED.iter().any(|(refused, _)| *refused == field)
    };
    for field in fields.names().filter(|field| !is_known(field)) {
        if let Some(meant) = nearest(field, KNOWN).filter(|_| field.len() > 3) {
            return Err(Refusal::bad(format!("there is no field {field:?}; did you mean {meant:?}?")).param(field));
        }
    }
    Ok(())
}

/// The question: of messages by the rules of that file format, else of question, context and options by ours.
fn record(fields: &Fields) -> Result<Record, Refusal> {
    let of = |format: Format, row: Value, param: &str| -> Result<Record, Refusal> {
        let loaded = read_text("the request", &json!([row]).to_string(), Some(format));
        // A request has one row.
        let said =
            |e: crate::Error| Refusal::bad(e.to_string().replace("the request, row 1", "the request")).param(param);
        Ok(loaded.map_err(said)?.records.remove(0))
    };
    let around = |question: &str| -> Result<Record, Refusal> {
        let mut row = Map::from_iter([("question".to_string(), question.into())]);
        for name in ["context", "contexts", "options"] {
            row.extend(fields.value(name).map(|value| (name.to_string(), value.clone())));
        }
        of(Format::Labelled, row.into(), "options")
    };
    let Some(messages) = fields.value("messages") else {
        let question = fields.text("question")?.filter(|question| !question.trim().is_empty());
        let Some(question) = question else {
            return Err(Refusal::bad("there is neither \"messages\" nor a text in \"question\"").param("question"));
        };
        return around(question);
    };
    if fields.value("question").is_some() {
        return Err(Refusal::bad("give messages or question, not both").param("question"));
    }
    let record = of(Format::Messages, json!({"messages": plain(messages)?}), "messages")?;
    if record.long_answer.is_some() {
        let message = "the last message is the assistant's; expected the user's, which is to be answered";
        return Err(Refusal::bad(message).param("messages"));
    }
    let Record { contexts, options, .. } = around(&record.question)?;
    Ok(Record { contexts, options, ..record })
}

/// Messages as files have them: a content in parts is one text, a line for each; the developer is the system.
fn plain(messages: &Value) -> Result<Value, Refusal> {
    let wrong = |message: String| Refusal::bad(message).param("messages");
    let Some(messages) = messages.as_array() else {
        return Err(wrong(format!("field \"messages\" is {}, expected a list of objects", kind(messages))));
    };
    let message = |(i, message): (usize, &Value)| {
        let place = format!("entry {} of field \"messages\"", i + 1);
        let Some(fields) = message.as_object() else {
            return Err(wrong(format!("{place} is {}, expected an object with role and content", kind(message))));
        };
        let content = match fields.get("content").unwrap_or(&Value::Null) {
            Value::String(text) => text.clone(),
            Value::Array(parts) => {
                let text = |part: &Value| match (part["type"].as_str(), part["text"].as_str()) {
                    (Some("text"), Some(text)) => Ok(text.to_string()),
                    _ => Err(wrong(format!("{place}: a part of its content is no text; this model reads text alone"))),
                };
                parts.iter().map(text).collect::<Result<Vec<_>, _>>()?.join("\n")
            }
            other => return Err(wrong(format!("{place}: content is {}, expected a string", kind(other)))),
        };
        let role = match fields.get("role") {
            Some(Value::String(role)) if role == "developer" => "system",
            Some(Value::String(role)) => role,
            other => {
                let found = kind(other.unwrap_or(&Value::Null));
                return Err(wrong(format!("{place}: role is {found}, expected \"system\", \"user\" or \"assistant\"")));
            }
        };
        Ok(json!({"role": role, "content": content}))
    };
    messages.iter().enumerate().map(message).collect()
}

/// What is to be decided: the set that is named, "none" for nothing; else the one that fits.
fn set(fields: &Fields, facts: &Facts, record: &Record) -> Result<Option<usize>, Refusal> {
    let decide = Decide::parse(fields.text("set")?, &facts.sets);
    decide.and_then(|decide| decide.of(record, &facts.sets)).map_err(|e| Refusal::of(&e).param("set"))
}

/// A drawn seed has 53 bits: whoever repeats it reads it as a double first.
const SEED_SHIFT: u32 = 11;

/// How tokens are chosen: greedily, unless a temperature is given. Without a seed each request draws its own.
fn sampling(fields: &Fields) -> Result<Sampling, Refusal> {
    let usual = Sampling::default();
    let number = |name: &str, range, usual: f32| Ok(fields.number(name, range)?.map_or(usual, |number| number as f32));
    let sampling = Sampling {
        temperature: number("temperature", 0.0..=2.0, usual.temperature)?,
        top_p: number("top_p", 0.0..=1.0, usual.top_p)?,
        repetition_penalty: number("repetition_penalty", 0.01..=100.0, usual.repetition_penalty)?,
        // vLLM says "all" with -1.
        top_k: fields.whole("top_k", -1..=i64::from(i32::MAX))?.map_or(usual.top_k, |k| k.max(0) as usize),
        seed: fields
            .whole("seed", i64::MIN..=i64::MAX)?
            .map_or_else(|| super::random() >> SEED_SHIFT, |seed| seed as u64),
    };
    sampling.check().map_err(|e| Refusal::of(&e))?;
    Ok(sampling)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Exchange, LabelSet};

    fn facts(sets: &[&str]) -> Facts {
        let sets: Vec<LabelSet> = sets.iter().map(|set| LabelSet::parse(set).unwrap()).collect();
        Facts { has_heads: !sets.is_empty(), sets, context: 512 }
    }

    fn limits() -> Limits {
        Limits { max_body: 1 << 20, queue: 4, timeout: std::time::Duration::from_secs(1), max_new: 100 }
    }

    fn read(body: Value, sets: &[&str]) -> Result<Chat, Refusal> {
        chat(body.to_string().as_bytes(), "m", &facts(sets), &limits())
    }

    /// A body with one question and these fields.
    fn with(more: Value) -> Value {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "Does it help?"}]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    }

    /// Field and sentence of a refusal with 400.
    fn refused(body: Value) -> (String, String) {
        let refusal = read(body.clone(), &["eci=yes,no"]).expect_err(&body.to_string());
        assert_eq!(refusal.status(), 400, "{body}");
        let error = &refusal.body()["error"];
        assert_eq!(error["type"], "invalid_request_error");
        (error["param"].as_str().unwrap_or_default().into(), error["message"].as_str().unwrap().into())
    }

    #[test]
    fn a_conversation_becomes_a_question_with_its_history() {
        let body = json!({"messages": [
            {"role": "developer", "content": "Be kind."}, {"role": "user", "content": "Hi."},
            {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": [{"type": "text", "text": "Does it"}, {"type": "text", "text": "help?"}]},
        ], "context": "Pain fell.", "seed": -1, "temperature": 0.5, "top_k": -1, "max_tokens": 7, "stop": "END", "user": "me",
           "store": true, "x_unknown": {"a": 1}, "tools": [], "n": 1, "presence_penalty": 0, "logprobs": null});
        let Chat { ask, stream, include_usage } = read(body, &["eci=yes,no"]).unwrap();
        assert_eq!(ask.record.system.as_deref(), Some("Be kind."));
        assert_eq!(ask.record.history, [Exchange { asked: "Hi.".into(), answered: "Hello.".into() }]);
        assert_eq!((ask.record.question.as_str(), ask.record.contexts), ("Does it\nhelp?", vec!["Pain fell.".into()]));
        assert_eq!(
            (ask.set, ask.max_new, ask.stop, stream, include_usage),
            (Some(0), Some(7), vec!["END".into()], false, false)
        );
        let want = Sampling { temperature: 0.5, seed: u64::MAX, ..Sampling::default() };
        assert_eq!(ask.sampling, want);
    }

    #[test]
    fn what_would_change_the_answer_is_refused_by_name() {
        for (field, value) in [
            ("tools", json!([{"type": "function"}])),
            ("logprobs", json!(true)),
            ("n", json!(2)),
            ("response_format", json!({"type": "json_object"})),
            ("frequency_penalty", json!(0.5)),
            ("logit_bias", json!({"5": 1})),
        ] {
            let (param, said) = refused(with(json!({field: value})));
            assert!(param == field && said.contains("not supported"), "{field}: {said}");
        }
        let (param, said) = refused(with(json!({"temprature": 1})));
        assert!(param == "temprature" && said.contains("did you mean \"temperature\""), "{said}");
    }

    #[test]
    fn a_value_of_the_wrong_kind_or_size_is_refused_by_its_field() {
        for (field, value, part) in [
            ("temperature", json!("hot"), "is a string, expected a number from 0 to 2"),
            ("temperature", json!(2.5), "is 2.5, expected a number from 0 to 2"),
            ("top_p", json!(-0.1), "is -0.1"),
            ("max_tokens", json!(0), "is 0, expected a whole number from 1 to 100"),
            ("max_completion_tokens", json!(101), "is 101, expected a whole number from 1 to 100"),
            ("max_tokens", json!(1.5), "is 1.5"),
            ("stream", json!("yes"), "is a string, expected true or false"),
            ("stream_options", json!(3), "is 3, expected an object"),
            ("stop", json!([""]), "none of them empty"),
            ("seed", json!("a"), "is a string"),
            ("messages", json!("Hi."), "is a string, expected a list of objects"),
            ("messages", json!([]), "no turn of \"user\""),
            ("messages", json!(["Hi."]), "entry 1 of field \"messages\" is a string"),
            ("messages", json!([{"role": "user"}]), "content is null, expected a string"),
            ("messages", json!([{"role": "user", "content": ""}]), "no text in field \"content\""),
            ("messages", json!([{"content": "Hi."}]), "role is null"),
            ("messages", json!([{"role": "tool", "content": "1"}]), "is \"tool\", expected \"user\""),
            ("messages", json!([{"role": "user", "content": [{"type": "image_url"}]}]), "no text"),
            (
                "messages",
                json!([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]),
                "expected \"assistant\"",
            ),
            (
                "messages",
                json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]),
                "the assistant's",
            ),
            ("set", json!("other"), "there are eci (yes,no), or say none"),
            ("options", json!("A"), "is a string, expected options by their keys"),
            ("question", json!("Q?"), "not both"),
        ] {
            let (param, said) = refused(with(json!({field: value})));
            assert!(param == field && said.contains(part), "{field}: {param}: {said}");
        }
        assert_eq!(refused(json!({"model": "m"})).0, "messages");
        assert!(refused(json!([1])).1.contains("the body is a list, expected an object"));
        let other = read(with(json!({"model": "gpt-4"})), &[]).unwrap_err();
        assert_eq!((other.status().as_u16(), other.body()["error"]["code"].as_str()), (404, Some("model_not_found")));
    }

    #[test]
    fn the_set_is_the_one_that_is_named_or_fits_the_options() {
        let sets = ["pubmedqa=yes,no,maybe", "usmle=A,B,C,D", "two=A,B"];
        let of = |more: Value| read(with(more), &sets).map(|chat| chat.ask.set);
        assert_eq!(of(json!({})).unwrap(), Some(0));
        assert_eq!(of(json!({"set": "usmle"})).unwrap(), Some(1));
        assert_eq!(of(json!({"set": "none"})).unwrap(), None);
        assert_eq!(of(json!({"options": {"A": "a", "B": "b"}})).unwrap(), Some(2));
        assert_eq!(of(json!({"options": ["a", "b", "c"]})).unwrap(), None);
        assert_eq!(of(json!({"options": ["a", "b"], "set": "usmle"})).unwrap_err().body()["error"]["param"], "set");
        assert_eq!(read(with(json!({"options": ["a", "b"]})), &[]).unwrap().ask.set, None);
    }

    #[test]
    fn a_question_is_classified_and_a_model_without_head_says_so() {
        let body = json!({"question": "Does it help?", "contexts": ["Pain fell.", "Much."]}).to_string();
        let ask = classify(body.as_bytes(), "m", &facts(&["eci=yes,no"])).unwrap();
        assert_eq!((ask.max_new, ask.set, ask.record.contexts.len()), (Some(0), Some(0), 2));
        let said = |body: &str, sets: &[&str]| {
            classify(body.as_bytes(), "m", &facts(sets)).unwrap_err().body()["error"].clone()
        };
        assert_eq!(said(&body, &[])["code"], "no_head");
        assert_eq!(said("{}", &["eci=yes,no"])["param"], "question");
        let three = json!({"question": "Which?", "options": ["a", "b", "c"]}).to_string();
        assert_eq!(said(&three, &["usmle=A,B"])["param"], "set");
        assert!(said("{", &["eci=yes,no"])["message"].as_str().unwrap().starts_with("the body is not JSON: EOF"));
    }
}
