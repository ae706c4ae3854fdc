//! A GGUF file (version 3) as llama.cpp reads it: metadata, a table of tensors, and the tensors one behind the other.
//!
//! Everything in front of the numbers is known before the first of them, so the file is written from front to back, and one hash over
//! what was written is held against what is read back.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;

use half::{bf16, f16};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::tensor_file::differs;
use crate::{Error, Result};

/// Where tensors begin: multiples of this, from the beginning of the numbers. GGUF's own default.
const ALIGN: usize = 32;
/// Numbers of a Q8_0 block, which share one scale.
pub const Q8_BLOCK: usize = 32;

/// A value of the metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum GgufValue {
    /// A count or an id.
    U32(u32),
    /// A number.
    F32(f32),
    /// Yes or no.
    Bool(bool),
    /// A text.
    Text(String),
    /// A list of texts.
    Texts(Vec<String>),
    /// A list of numbers.
    F32s(Vec<f32>),
    /// A list of whole numbers.
    I32s(Vec<i32>),
}

/// The metadata: keys with their values, in the order in which they are written.
pub type GgufMetadata = Vec<(String, GgufValue)>;

/// How a tensor's numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgufType {
    /// 32-bit IEEE.
    F32,
    /// 16-bit IEEE.
    F16,
    /// The upper half of an F32.
    Bf16,
    /// Blocks of 32 in 8 bits with one F16 scale: 34 bytes.
    Q8,
}

impl GgufType {
    fn id(self) -> u32 {
        match self {
            GgufType::F32 => 0,
            GgufType::F16 => 1,
            GgufType::Q8 => 8,
            GgufType::Bf16 => 30,
        }
    }

    /// Bytes of so many numbers; whole blocks where there are blocks.
    pub fn n_bytes(self, n_elems: usize) -> usize {
        match self {
            GgufType::F32 => n_elems * 4,
            GgufType::F16 | GgufType::Bf16 => n_elems * 2,
            GgufType::Q8 => n_elems / Q8_BLOCK * (2 + Q8_BLOCK),
        }
    }

    /// The bytes of these numbers. Rounded to nearest even; in Q8_0 as ggml's reference does: `d = max |x| / 127`, and `x / d` rounded
    /// half away from zero.
    pub fn encode(self, values: &[f32]) -> Vec<u8> {
        let mut bytes = vec![0; self.n_bytes(values.len())];
        let task = 1 << 12;
        bytes.par_chunks_mut(self.n_bytes(task)).zip(values.par_chunks(task)).for_each(|(out, x)| match self {
            GgufType::F32 => each(out, x, |x| x.to_le_bytes()),
            GgufType::F16 => each(out, x, |x| f16::from_f32(x).to_le_bytes()),
            GgufType::Bf16 => each(out, x, |x| bf16::from_f32(x).to_le_bytes()),
            GgufType::Q8 => {
                out.chunks_exact_mut(2 + Q8_BLOCK).zip(x.chunks_exact(Q8_BLOCK)).for_each(|(out, x)| q8(out, x));
            }
        });
        bytes
    }
}

fn each<const N: usize>(out: &mut [u8], x: &[f32], bytes: impl Fn(f32) -> [u8; N]) {
    out.chunks_exact_mut(N).zip(x).for_each(|(out, &x)| out.copy_from_slice(&bytes(x)));
}

/// One block. The codes are made with the scale in fp32; it is stored in F16.
fn q8(out: &mut [u8], x: &[f32]) {
    let d = x.iter().fold(0.0, |most: f32, x| most.max(x.abs())) / 127.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    out[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    out[2..].iter_mut().zip(x).for_each(|(code, x)| *code = (x * inverse).round() as i8 as u8);
}

/// A tensor that will be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufTensor {
    /// Its name in llama.cpp.
    pub name: String,
    /// Its shape, rows first. The file has it the other way round.
    pub shape: Vec<usize>,
    /// How its numbers are stored.
    pub dtype: GgufType,
}

impl GgufTensor {
    /// Bytes of its numbers.
    pub fn n_bytes(&self) -> usize {
        self.dtype.n_bytes(self.shape.iter().product())
    }
}

/// A whole file, but for its numbers.
pub struct GgufLayout {
    front: Vec<u8>,
    tensors: Vec<GgufTensor>,
}

/// Takes the bytes of one tensor after the other.
pub struct GgufSink<'a> {
    file: BufWriter<File>,
    path: &'a Path,
    digest: Sha256,
    n_written: u64,
}

impl GgufLayout {
    /// The file that holds this metadata and these tensors, in this order.
    pub fn new(metadata: &GgufMetadata, tensors: Vec<GgufTensor>) -> GgufLayout {
        let mut front = Vec::new();
        front.extend(b"GGUF");
        front.extend(3u32.to_le_bytes());
        front.extend((tensors.len() as u64).to_le_bytes());
        front.extend((metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata {
            put_text(&mut front, key);
            put_value(&mut front, value);
        }
        let mut offset = 0;
        for tensor in &tensors {
            put_text(&mut front, &tensor.name);
            front.extend((tensor.shape.len() as u32).to_le_bytes());
            tensor.shape.iter().rev().for_each(|&n| front.extend((n as u64).to_le_bytes()));
            front.extend(tensor.dtype.id().to_le_bytes());
            front.extend((offset as u64).to_le_bytes());
            offset += tensor.n_bytes().next_multiple_of(ALIGN);
        }
        front.resize(front.len().next_multiple_of(ALIGN), 0);
        GgufLayout { front, tensors }
    }

    /// Bytes of the file.
    pub fn n_bytes(&self) -> u64 {
        let data: usize = self.tensors.iter().map(|t| t.n_bytes().next_multiple_of(ALIGN)).sum();
        (self.front.len() + data) as u64
    }

    /// The tensors.
    pub fn tensors(&self) -> &[GgufTensor] {
        &self.tensors
    }

    /// Writes the new file; `fill` is asked for the bytes of one tensor after the other, by its place. The file is flushed, read
    /// back and compared.
    pub fn write(&self, path: &Path, mut fill: impl FnMut(usize, &mut GgufSink) -> Result<()>) -> Result<()> {
        let file = File::options().write(true).create_new(true).open(path).map_err(Error::io(path))?;
        let mut sink = GgufSink { file: BufWriter::new(file), path, digest: Sha256::new(), n_written: 0 };
        sink.append(&self.front)?;
        for (i, tensor) in self.tensors.iter().enumerate() {
            let begin = sink.n_written;
            fill(i, &mut sink)?;
            let (found, n_bytes) = ((sink.n_written - begin) as usize, tensor.n_bytes());
            if found != n_bytes {
                return Err(Error::Shape(format!("tensor {} has {n_bytes} bytes, {found} were given", tensor.name)));
            }
            sink.append(&vec![0; n_bytes.next_multiple_of(ALIGN) - n_bytes])?;
        }
        sink.finish()
    }
}

impl GgufSink<'_> {
    /// Writes the next bytes.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::io(self.path))?;
        self.digest.update(bytes);
        self.n_written += bytes.len() as u64;
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        let path = self.path;
        self.file.flush().and_then(|()| self.file.get_ref().sync_all()).map_err(Error::io(path))?;
        let mut read_back = Sha256::new();
        let mut file = File::open(path).map_err(Error::io(path))?;
        let mut piece = vec![0; 1 << 20];
        loop {
            match file.read(&mut piece).map_err(Error::io(path))? {
                0 => break,
                n => read_back.update(&piece[..n]),
            }
        }
        if read_back.finalize() == self.digest.finalize() { Ok(()) } else { Err(differs(path, "the file")) }
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// The type's number and the value; a list has the type of its members and their number before them.
fn put_value(out: &mut Vec<u8>, value: &GgufValue) {
    const U32: u32 = 4;
    const I32: u32 = 5;
    const F32: u32 = 6;
    const BOOL: u32 = 7;
    const TEXT: u32 = 8;
    const LIST: u32 = 9;
    let list = |out: &mut Vec<u8>, of: u32, n: usize| {
        out.extend(LIST.to_le_bytes());
        out.extend(of.to_le_bytes());
        out.extend((n as u64).to_le_bytes());
    };
    match value {
        GgufValue::U32(x) => {
            out.extend(U32.to_le_bytes());
            out.extend(x.to_le_bytes());
        }
        GgufValue::F32(x) => {
            out.extend(F32.to_le_bytes());
            out.extend(x.to_le_bytes());
        }
        GgufValue::Bool(x) => {
            out.extend(BOOL.to_le_bytes());
            out.push(u8::from(*x));
        }
        GgufValue::Text(text) => {
            out.extend(TEXT.to_le_bytes());
            put_text(out, text);
        }
        GgufValue::Texts(texts) => {
            list(out, TEXT, texts.len());
            texts.iter().for_each(|text| put_text(out, text));
        }
        GgufValue::F32s(numbers) => {
            list(out, F32, numbers.len());
            numbers.iter().for_each(|x| out.extend(x.to_le_bytes()));
        }
        GgufValue::I32s(numbers) => {
            list(out, I32, numbers.len());
            numbers.iter().for_each(|x| out.extend(x.to_le_bytes()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_of_eight_bits_is_rounded_half_away_from_zero() {
        let mut x = [0.0f32; 32];
        // d = 1: the codes are the numbers, rounded.
        x[..6].copy_from_slice(&[127.0, 0.5, -0.5, 2.5, -2.5, 1.4]);
        let bytes = GgufType::Q8.encode(&x);
        assert_eq!(bytes.len(), 34);
        assert_eq!(bytes[..2], f16::from_f32(1.0).to_le_bytes());
        assert_eq!(bytes[2..8].iter().map(|&b| b as i8).collect::<Vec<_>>(), [127, 1, -1, 3, -3, 1]);
        assert_eq!(GgufType::Q8.encode(&[0.0; 64]), [0; 68]);
    }

    #[test]
    fn long_rows_are_encoded_as_their_pieces() {
        let x: Vec<f32> = (0..10_048).map(|i| ((i * 37) % 101) as f32 / 7.0 - 6.0).collect();
        for dtype in [GgufType::F32, GgufType::F16, GgufType::Bf16, GgufType::Q8] {
            let pieces: Vec<u8> = x.chunks(32).flat_map(|piece| dtype.encode(piece)).collect();
            assert_eq!(dtype.encode(&x), pieces);
        }
    }

    #[test]
    fn the_promise_of_bytes_holds_and_a_tensor_that_is_not_whole_is_a_fault_of_the_caller() {
        let dir = tempfile::tempdir().unwrap();
        let metadata = vec![("a.b".to_string(), GgufValue::U32(7)), ("c".into(), GgufValue::Texts(vec!["é".into()]))];
        let tensor = |name: &str| GgufTensor { name: name.into(), shape: vec![3, 5], dtype: GgufType::F16 };
        let layout = GgufLayout::new(&metadata, vec![tensor("x"), tensor("y")]);
        let path = dir.path().join("whole.gguf");
        layout.write(&path, |i, sink| sink.append(&[i as u8; 30])).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len() as u64, layout.n_bytes());
        assert_eq!(bytes[bytes.len() - 32..][..30], [1; 30]);
        assert!(bytes.len().is_multiple_of(ALIGN) && bytes.starts_with(b"GGUF\x03\0\0\0\x02\0\0\0\0\0\0\0\x02"));
        let short = layout.write(&dir.path().join("short.gguf"), |_, sink| sink.append(&[0; 29]));
        assert!(matches!(short, Err(Error::Shape(text)) if text.contains("30 bytes, 29 were given")));
    }
}
