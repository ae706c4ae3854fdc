//! The shapes of answers: OpenAI's, with ours beside them in `llamacare`.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use crate::chat::{Decision, NOTICE};
use crate::data::LabelSet;
use crate::generate::Finish;

/// What stays the same through one answer.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    id: String,
    created: u64,
    model: String,
    set: Option<LabelSet>,
    seed: u64,
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Reply {
    /// An answer of `model`; `set`: what its head decides; `seed`: with which the same answer comes again.
    pub(super) fn new(model: &str, set: Option<LabelSet>, seed: u64) -> Reply {
        Reply { id: format!("chatcmpl-{:016x}", super::random()), created: now(), model: model.into(), set, seed }
    }

    /// A whole answer.
    pub(super) fn whole(
        &self,
        text: &str,
        label: Option<&[f64]>,
        finish: Finish,
        n_prompt: usize,
        n_new: usize,
    ) -> Value {
        let message = json!({"role": "assistant", "content": text});
        let choice = json!({"index": 0, "message": message, "logprobs": null, "finish_reason": reason(finish)});
        json!({
            "id": self.id, "object": "chat.completion", "created": self.created, "model": self.model,
            "choices": [choice], "usage": usage(n_prompt, n_new), "llamacare": self.beside(label),
        })
    }

    /// The first piece: the role, and the head's decision.
    pub(super) fn first(&self, label: Option<&[f64]>) -> Value {
        let mut piece = self.piece(json!({"role": "assistant", "content": ""}), None);
        piece["llamacare"] = self.beside(label);
        piece
    }

    /// A piece of text.
    pub(super) fn text(&self, text: &str) -> Value {
        self.piece(json!({"content": text}), None)
    }

    /// The piece that says how it ended.
    pub(super) fn last(&self, finish: Finish) -> Value {
        self.piece(json!({}), Some(reason(finish)))
    }

    /// The piece behind the last, with the number of tokens.
    pub(super) fn tokens(&self, n_prompt: usize, n_new: usize) -> Value {
        let mut piece = self.piece(json!({}), None);
        piece["choices"] = json!([]);
        piece["usage"] = usage(n_prompt, n_new);
        piece
    }

    fn piece(&self, delta: Value, finish: Option<&str>) -> Value {
        let choice = json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish});
        json!({
            "id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.model,
            "choices": [choice],
        })
    }

    /// The label with its probabilities, null without a head; the seed; and what this is not.
    fn beside(&self, label: Option<&[f64]>) -> Value {
        let mut beside = decision(self.set.as_ref(), label);
        // As it was given: a negative one is one.
        beside.insert("seed".into(), (self.seed as i64).into());
        beside.insert("notice".into(), NOTICE.into());
        Value::Object(beside)
    }

    /// The answer of `/classify`.
    pub(super) fn classified(&self, label: &[f64], n_prompt: usize) -> Value {
        let mut body = Map::from_iter([("model".to_string(), Value::from(self.model.clone()))]);
        body.extend(decision(self.set.as_ref(), Some(label)));
        body.insert("usage".into(), usage(n_prompt, 0));
        body.insert("notice".into(), NOTICE.into());
        Value::Object(body)
    }
}

/// The decision's fields; null where nothing is decided.
fn decision(set: Option<&LabelSet>, probabilities: Option<&[f64]>) -> Map<String, Value> {
    let none = || {
        ["set", "label", "probability", "probabilities"]
            .map(|name| (name.to_string(), Value::Null))
            .into_iter()
            .collect()
    };
    let decision = set.zip(probabilities).map(|(set, probabilities)| json!(Decision::new(set, probabilities)));
    match decision {
        Some(Value::Object(fields)) => fields,
        _ => none(),
    }
}

fn usage(n_prompt: usize, n_new: usize) -> Value {
    json!({"prompt_tokens": n_prompt, "completion_tokens": n_new, "total_tokens": n_prompt + n_new})
}

fn reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Eos => "stop",
        Finish::Length => "length",
    }
}

/// `/v1/models`: the one there is, with what it can decide.
pub(super) fn models(name: &str, facts: &super::shared::Facts) -> Response {
    let sets: Vec<Value> = facts.sets.iter().map(|set| json!({"name": set.name, "labels": set.labels})).collect();
    let model = json!({
        "id": name, "object": "model", "created": now(), "owned_by": "llamacare", "max_model_len": facts.context,
        "llamacare": {"sets": sets, "has_heads": facts.has_heads, "notice": NOTICE},
    });
    Json(json!({"object": "list", "data": [model]})).into_response()
}
