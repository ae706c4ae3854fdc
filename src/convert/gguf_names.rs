//! What llama.cpp calls the tensors of a Llama, and in which order it wants the rows of queries and keys.

use crate::checkpoint::LlamaConfig;

/// `model.layers.3.self_attn.q_proj.weight` to `blk.3.attn_q.weight`.
pub(super) fn name(hugging_face: &str) -> Option<String> {
    let whole = match hugging_face {
        "model.embed_tokens.weight" => Some("token_embd.weight"),
        "model.norm.weight" => Some("output_norm.weight"),
        "lm_head.weight" => Some("output.weight"),
        _ => None,
    };
    if let Some(name) = whole {
        return Some(name.into());
    }
    let (layer, part) = hugging_face.strip_prefix("model.layers.")?.split_once('.')?;
    let part = match part.strip_suffix(".weight")? {
        "input_layernorm" => "attn_norm",
        "post_attention_layernorm" => "ffn_norm",
        linear => linear_name(linear)?,
    };
    Some(format!("blk.{layer}.{part}.weight"))
}

fn linear_name(linear: &str) -> Option<&'static str> {
    Some(match linear {
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        _ => return None,
    })
}

/// Whether the rows of this weight are queries or keys.
pub(super) fn is_rotated(hugging_face: &str) -> bool {
    ["q_proj.weight", "k_proj.weight"].iter().any(|end| hugging_face.ends_with(end))
}

/// Rows of whole heads in llama.cpp's order.
///
/// Rotary embedding turns pairs of a head's rows. Hugging Face pairs row i with row i + D/2, llama.cpp row 2i with row 2i + 1: so
/// row 2i + j here is row j D/2 + i there. Heads stay where they are, whether they are of queries or of keys.
pub(super) fn rotated<T: Copy>(rows: &[T], width: usize, c: &LlamaConfig) -> Vec<T> {
    let (d, half) = (c.head_dim, c.head_dim / 2);
    let mut out = Vec::with_capacity(rows.len());
    for head in rows.chunks(d * width) {
        for to in 0..d {
            let from = to % 2 * half + to / 2;
            out.extend_from_slice(&head[from * width..][..width]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_llama_cpps() {
        for (hugging_face, expected) in [
            ("model.embed_tokens.weight", "token_embd.weight"),
            ("model.layers.12.self_attn.o_proj.weight", "blk.12.attn_output.weight"),
            ("model.layers.0.post_attention_layernorm.weight", "blk.0.ffn_norm.weight"),
            ("model.layers.0.input_layernorm.weight", "blk.0.attn_norm.weight"),
            ("model.layers.7.mlp.down_proj.weight", "blk.7.ffn_down.weight"),
            ("lm_head.weight", "output.weight"),
        ] {
            assert_eq!(name(hugging_face).as_deref(), Some(expected));
        }
        assert_eq!(name("model.layers.0.self_attn.rotary_emb.inv_freq"), None);
    }

    #[test]
    fn rows_of_a_head_come_in_pairs() {
        let c = LlamaConfig { head_dim: 6, ..LlamaConfig::llama_2_13b() };
        let rows: Vec<usize> = (0..24).collect();
        let out = rotated(&rows, 2, &c);
        let firsts: Vec<usize> = out.chunks(2).map(|row| row[0] / 2).collect();
        assert_eq!(firsts, [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
        assert!(out.chunks(2).all(|row| row[1] == row[0] + 1));
    }
}
