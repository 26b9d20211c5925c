//! BERT's layers and the pooling of their outputs as a list of ops (Devlin et al., arXiv 1810.04805;
//! module names and order as in transformers' `modeling_bert.py`, pooling as in sentence-transformers).
//! Wiring only.
//!
//! T tokens of all sentences, S sentences, H hidden.

use super::config::{EncoderConfig, Places};
use crate::base::{HostTensor, Result};
use crate::model::net::{AttentionShape, Net};
use crate::model::spec::{ParamList, ParamSpec, Part};
use crate::ops::Slot;
use crate::ops::embed::Embed;
use crate::ops::rms_norm::RmsNorm;
use crate::ops::weighted_rows::WeightedRows;

/// Added to the mean square of a vector before it is divided by its length: a vector of zeros stays one.
const LENGTH_EPS: f64 = 1e-24;

/// The parameters, named as in a checkpoint of the bare encoder.
pub(super) fn parameters(c: &EncoderConfig) -> Vec<ParamSpec> {
    let (h, inner) = (c.hidden_size, c.intermediate_size);
    let mut p = ParamList::new("", Part::Language);
    p.push("embeddings.word_embeddings.weight", &[c.vocab_size, h]);
    p.push("embeddings.position_embeddings.weight", &[c.max_positions, h]);
    p.push("embeddings.token_type_embeddings.weight", &[c.segments, h]);
    p.layer_norm("embeddings.LayerNorm", h);
    for i in 0..c.num_layers {
        let at = |module: &str| format!("encoder.layer.{i}.{module}");
        for module in ["query", "key", "value"] {
            p.linear(&at(&format!("attention.self.{module}")), h, h, true);
        }
        p.linear(&at("attention.output.dense"), h, h, true);
        p.layer_norm(&at("attention.output.LayerNorm"), h);
        p.linear(&at("intermediate.dense"), h, inner, true);
        p.linear(&at("output.dense"), inner, h, true);
        p.layer_norm(&at("output.LayerNorm"), h);
    }
    p.list
}

/// Ids of some sentences to their vectors `[S,H]`; none is empty.
pub(super) fn encode(net: &mut Net, c: &EncoderConfig, sentences: &[&[u32]]) -> Result<Slot> {
    let mut blocks = Vec::with_capacity(sentences.len());
    let mut rows = 0;
    for ids in sentences {
        blocks.push((rows, ids.len()));
        rows += ids.len();
    }
    let mut x = embeddings(net, c, sentences, rows)?;
    let shape = AttentionShape::of_blocks(c.num_heads, c.head_dim(), &blocks, None);
    for i in 0..c.num_layers {
        x = layer(net, c, i, x, &shape)?;
    }
    let x = pooled(net, c, x, &blocks)?;
    if !c.normalize {
        return Ok(x);
    }
    // x / sqrt(mean square) / sqrt(H) = x / length.
    let root = (1.0 / (c.hidden_size as f64).sqrt()) as f32;
    let weight = net.tape.input(HostTensor::f32([c.hidden_size], vec![root; c.hidden_size]));
    Ok(net.tape.ops(RmsNorm { eps: LENGTH_EPS }, &[x, weight])?[0])
}

/// Tokens, their segment and their places, summed and normed: `[T,H]`.
fn embeddings(net: &mut Net, c: &EncoderConfig, sentences: &[&[u32]], rows: usize) -> Result<Slot> {
    let mut table = |name: &str, index: Vec<i32>| {
        let table = net.param(&format!("embeddings.{name}_embeddings.weight"), None)?;
        let index = net.tape.indices(index);
        net.tape.op(Embed, &[table, index])
    };
    let ids = sentences.iter().flat_map(|ids| ids.iter().map(|&id| id as i32)).collect();
    let x = table("word", ids)?;
    let segment = table("token_type", vec![0; rows])?;
    let places = sentences.iter().flat_map(|ids| places(c.places, ids)).collect();
    let place = table("position", places)?;
    let x = net.add(x, segment)?;
    let x = net.add(x, place)?;
    net.layer_norm(x, "embeddings.LayerNorm", c.layer_norm_eps)
}

/// Rows of the table of places that a sentence's tokens take.
fn places(rule: Places, ids: &[u32]) -> Vec<i32> {
    match rule {
        Places::FromZero => (0..ids.len() as i32).collect(),
        Places::AfterPadding(padding) => {
            let mut last = padding as i32;
            let mut place = |id: &u32| {
                if *id == padding {
                    return padding as i32;
                }
                last += 1;
                last
            };
            ids.iter().map(&mut place).collect()
        }
    }
}

/// One layer; norms come after the residual connections.
fn layer(
    net: &mut Net,
    c: &EncoderConfig,
    number: usize,
    x: Slot,
    shape: &AttentionShape,
) -> Result<Slot> {
    let at = |module: &str| format!("encoder.layer.{number}.{module}");
    let q = net.linear(x, &at("attention.self.query"))?;
    let k = net.linear(x, &at("attention.self.key"))?;
    let v = net.linear(x, &at("attention.self.value"))?;
    let a = net.attention([q, k, v], shape, None)?;
    let a = net.linear(a, &at("attention.output.dense"))?;
    let x = net.add(a, x)?;
    let x = net.layer_norm(x, &at("attention.output.LayerNorm"), c.layer_norm_eps)?;
    let h = net.gelu_mlp(x, &[at("intermediate.dense"), at("output.dense")], c.gelu)?;
    let x = net.add(h, x)?;
    net.layer_norm(x, &at("output.LayerNorm"), c.layer_norm_eps)
}

/// Weighted sums of the rows of each sentence. Shorter sentences than the longest repeat their first
/// row with weight 0, which changes no bit of their sums.
fn pooled(net: &mut Net, c: &EncoderConfig, x: Slot, blocks: &[(usize, usize)]) -> Result<Slot> {
    let taps = blocks.iter().map(|(_, len)| *len).max().unwrap_or(0);
    let (mut rows, mut weights) = (Vec::new(), Vec::new());
    for &(first, len) in blocks {
        rows.extend((0..taps).map(|i| (first + if i < len { i } else { 0 }) as i32));
        weights.extend(c.pooling.weights(len));
        weights.resize(rows.len(), 0.0);
    }
    let rows = net.tape.indices(rows);
    let weights = net.tape.input(HostTensor::f32([blocks.len(), taps], weights));
    net.tape.op(WeightedRows { taps }, &[x, rows, weights])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_those_of_the_architecture() {
        assert_eq!(places(Places::FromZero, &[7, 1, 9]), [0, 1, 2]);
        assert_eq!(places(Places::AfterPadding(1), &[7, 1, 9]), [2, 1, 3]);
        assert_eq!(places(Places::AfterPadding(0), &[7, 1, 9]), [1, 2, 3]);
    }
}
