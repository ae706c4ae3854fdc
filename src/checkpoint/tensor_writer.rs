//! Writing one safetensors file tensor by tensor, of any size, without holding more than the piece at hand.
//!
//! The sizes are said first, so every tensor has its place and may come in any order and in pieces. Small texts whose
//! length is known only at the end (bitsandbytes' `quant_state`) are laid behind the rest. The header goes in last: until
//! then the file begins with zeros, which no reader takes for a safetensors file. [`TensorWriter::finish`] flushes the file,
//! reads it back and holds every tensor to the digest of what was meant.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use sha2::{Digest, Sha256};

use super::host_tensor::NamedTensor;
use super::tensor_file::{TensorFile, differs, sha256_hex};
use crate::{Error, Result};

/// A tensor that will be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name in the file.
    pub name: String,
    /// The type of its numbers.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// A tensor of this name, type and shape.
    pub fn new(name: impl Into<String>, dtype: Dtype, shape: &[usize]) -> Self {
        TensorSpec { name: name.into(), dtype, shape: shape.to_vec() }
    }

    /// Bytes of its numbers.
    pub fn n_bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8
    }
}

/// The most bytes a text may have that is laid behind the tensors.
pub const MAX_TEXT: usize = 4096;

/// A safetensors file that is being written.
pub struct TensorWriter {
    path: PathBuf,
    file: File,
    note: (String, String),
    /// Bytes kept free for the header.
    n_header: usize,
    n_data: usize,
    entries: BTreeMap<String, Entry>,
}

struct Entry {
    dtype: Dtype,
    shape: Vec<usize>,
    begin: usize,
    n_bytes: usize,
    written: usize,
    digest: Sha256,
}

impl TensorWriter {
    /// Makes the new file `path` for these tensors, `texts` more [U8] tensors to be named later by
    /// [`text`](TensorWriter::text), and one note in the header (one, since the header's order of several is arbitrary:
    /// equal tensors give equal bytes). Tensors lie as the safetensors library lays them: widest type first, then by name.
    pub fn create(path: &Path, specs: &[TensorSpec], texts: &[String], note: (&str, &str)) -> Result<Self> {
        let mut sorted: Vec<&TensorSpec> = specs.iter().collect();
        sorted.sort_by(|a, b| b.dtype.cmp(&a.dtype).then(a.name.cmp(&b.name)));
        let mut entries = BTreeMap::new();
        let mut n_data = 0;
        for spec in sorted {
            let entry = Entry {
                dtype: spec.dtype,
                shape: spec.shape.clone(),
                begin: n_data,
                n_bytes: spec.n_bytes(),
                written: 0,
                digest: Sha256::new(),
            };
            n_data += entry.n_bytes;
            if entries.insert(spec.name.clone(), entry).is_some() {
                return Err(Error::Shape(format!("two tensors to be saved are called {}", spec.name)));
            }
        }
        let file = File::options().write(true).create_new(true).open(path).map_err(Error::io(path))?;
        let note = (note.0.to_string(), note.1.to_string());
        let mut writer = TensorWriter { path: path.into(), file, note, n_header: 0, n_data, entries };
        // Room for the texts as if each were as long as it may be: real offsets have no more digits.
        let room: usize = texts.len() * MAX_TEXT;
        let texts =
            texts.iter().enumerate().map(|(i, name)| (name.as_str(), n_data + room - (texts.len() - i) * MAX_TEXT));
        writer.n_header =
            writer.header(texts.map(|(name, begin)| (name.to_string(), begin, MAX_TEXT)).collect())?.len();
        Ok(writer)
    }

    /// The header, with `more` tensors [U8] (name, begin, bytes) behind those that are known.
    fn header(&self, more: Vec<(String, usize, usize)>) -> Result<Vec<u8>> {
        let info = |dtype, shape: &[usize], begin, n| TensorInfo {
            dtype,
            shape: shape.to_vec(),
            data_offsets: (begin, begin + n),
        };
        let mut infos: Vec<(String, TensorInfo)> =
            self.entries.iter().map(|(name, e)| (name.clone(), info(e.dtype, &e.shape, e.begin, e.n_bytes))).collect();
        infos.extend(more.into_iter().map(|(name, begin, n)| (name, info(Dtype::U8, &[n], begin, n))));
        // An empty tensor begins where the next one does; the names keep their order stable.
        infos.sort_by(|a, b| a.1.data_offsets.cmp(&b.1.data_offsets).then(a.0.cmp(&b.0)));
        let notes = HashMap::from([self.note.clone()]);
        let metadata = Metadata::new(Some(notes), infos).map_err(|e| Error::Shape(e.to_string()))?;
        let mut header = serde_json::to_vec(&metadata).map_err(|e| Error::io(&self.path)(e.into()))?;
        header.resize(header.len().next_multiple_of(8), b' ');
        Ok(header)
    }

    /// Writes the next bytes of a tensor.
    pub fn append(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let Some(entry) = self.entries.get_mut(name) else {
            return Err(Error::Shape(format!("{}: no place was kept for tensor {name}", self.path.display())));
        };
        if entry.written + bytes.len() > entry.n_bytes {
            return Err(Error::Shape(format!("tensor {name} has {} bytes; more were given", entry.n_bytes)));
        }
        let at = 8 + self.n_header + entry.begin + entry.written;
        let write = |file: &mut File| file.seek(SeekFrom::Start(at as u64)).and_then(|_| file.write_all(bytes));
        write(&mut self.file).map_err(Error::io(&self.path))?;
        entry.written += bytes.len();
        entry.digest.update(bytes);
        Ok(())
    }

    /// Writes a [U8] tensor whose length was not known; `name` is one of the texts that room was kept for.
    pub fn text(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        if bytes.len() > MAX_TEXT {
            return Err(Error::Shape(format!("text {name} has {} bytes, {MAX_TEXT} at most", bytes.len())));
        }
        let entry = Entry {
            dtype: Dtype::U8,
            shape: vec![bytes.len()],
            begin: self.n_data,
            n_bytes: bytes.len(),
            written: 0,
            digest: Sha256::new(),
        };
        if self.entries.insert(name.to_string(), entry).is_some() {
            return Err(Error::Shape(format!("two tensors to be saved are called {name}")));
        }
        self.n_data += bytes.len();
        self.append(name, bytes)
    }

    /// Bytes of all tensors named so far.
    pub fn data_bytes(&self) -> usize {
        self.n_data
    }

    /// Completes the file, flushes it, reads it back and compares; gives its length in bytes.
    pub fn finish(mut self) -> Result<u64> {
        if let Some((name, e)) = self.entries.iter().find(|(_, e)| e.written != e.n_bytes) {
            let short = format!("tensor {name} has {} bytes, but {} were given", e.n_bytes, e.written);
            return Err(Error::Shape(short));
        }
        let mut header = self.header(Vec::new())?;
        if header.len() > self.n_header {
            return Err(Error::Shape(format!("{}: a text that no room was kept for", self.path.display())));
        }
        header.resize(self.n_header, b' ');
        let n_bytes = (8 + self.n_header + self.n_data) as u64;
        let mut write = || -> std::io::Result<()> {
            self.file.seek(SeekFrom::Start(0))?;
            self.file.write_all(&(header.len() as u64).to_le_bytes())?;
            self.file.write_all(&header)?;
            // Only a file that ends in empty tensors alone is shorter.
            self.file.set_len(n_bytes)?;
            self.file.sync_all()
        };
        write().map_err(Error::io(&self.path))?;
        self.read_back()?;
        Ok(n_bytes)
    }

    fn read_back(self) -> Result<()> {
        let file = TensorFile::open(&self.path)?;
        if file.note(&self.note.0) != Some(&self.note.1) {
            return Err(differs(&self.path, &self.note.0));
        }
        if file.names().len() != self.entries.len() {
            return Err(differs(&self.path, "the list of tensors"));
        }
        let entries: Vec<(String, Entry)> = self.entries.into_iter().collect();
        entries.into_par_iter().try_for_each(|(name, entry)| {
            let found = file.raw(&name).filter(|t| (t.dtype, t.shape) == (entry.dtype, &entry.shape[..]));
            match found.is_some_and(|t| Sha256::digest(t.bytes) == entry.digest.finalize()) {
                true => Ok(()),
                false => Err(differs(&self.path, &name)),
            }
        })
    }
}

/// Writes `tensors` as F32 to the new file `path` with one note in the header, flushes it to the disk, reads it back,
/// compares, and returns the file's SHA-256. The order of the tensors does not matter.
pub(super) fn write_tensors(path: &Path, tensors: &[NamedTensor], note: (&str, &str)) -> Result<String> {
    tensors.iter().try_for_each(NamedTensor::check)?;
    let specs: Vec<TensorSpec> = tensors.iter().map(|t| TensorSpec::new(&t.name, Dtype::F32, &t.shape)).collect();
    let mut writer = TensorWriter::create(path, &specs, &[], note)?;
    for tensor in tensors {
        // The format is little-endian, as is every machine CUDA runs on.
        writer.append(&tensor.name, bytemuck::cast_slice(&tensor.values))?;
    }
    writer.finish()?;
    sha256_hex(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::fixtures::named;
    use crate::checkpoint::tensor_file::FORMAT;

    #[test]
    fn written_tensors_come_back_bit_for_bit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.safetensors");
        let odd = [-0.0, f32::MIN_POSITIVE / 8.0, f32::MAX, 1.0 + f32::EPSILON];
        let tensors = vec![NamedTensor::new("odd", &[4], odd.to_vec()).unwrap(), named("a", &[2, 7], 3)];
        write_tensors(&path, &tensors, FORMAT).unwrap();
        let file = TensorFile::open(&path).unwrap();
        for tensor in &tensors {
            let found = file.owned(&tensor.name).unwrap();
            let bits = |t: &NamedTensor| t.values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!((&found.shape, bits(&found)), (&tensor.shape, bits(tensor)));
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_safetensors_library_in_any_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.safetensors");
        let mut tensors = vec![named("b", &[3, 5], 1), named("a", &[2], 2)];
        write_tensors(&path, &tensors, FORMAT).unwrap();
        let views = tensors.iter().map(|t| {
            let bytes = bytemuck::cast_slice(&t.values);
            (t.name.as_str(), safetensors::tensor::TensorView::new(Dtype::F32, t.shape.clone(), bytes).unwrap())
        });
        let format = HashMap::from([("format".to_string(), "pt".to_string())]);
        let library = safetensors::serialize(views, Some(format)).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), library);
        tensors.reverse();
        let again = dir.path().join("again.safetensors");
        let hash = write_tensors(&again, &tensors, FORMAT).unwrap();
        assert_eq!(hash, sha256_hex(&path).unwrap());
    }

    #[test]
    fn reading_back_notices_one_flipped_bit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.safetensors");
        let specs = [TensorSpec::new("a", Dtype::U8, &[5]), TensorSpec::new("b", Dtype::BF16, &[2, 3])];
        let flipped = |at_from_end: usize| {
            let _ = std::fs::remove_file(&path);
            let mut writer = TensorWriter::create(&path, &specs, &[], FORMAT).unwrap();
            writer.append("a", &[1; 5]).unwrap();
            writer.append("b", &[2; 12]).unwrap();
            if at_from_end > 0 {
                writer.file.seek(SeekFrom::Start((8 + writer.n_header + 17 - at_from_end) as u64)).unwrap();
                writer.file.write_all(&[3]).unwrap();
            }
            writer.finish()
        };
        assert_eq!(flipped(0).unwrap(), std::fs::metadata(&path).unwrap().len());
        assert!(flipped(1).unwrap_err().to_string().contains("a read back differs"));
        assert!(flipped(17).unwrap_err().to_string().contains("b read back differs"));
    }

    #[test]
    fn pieces_in_any_order_and_late_texts_give_a_file_that_the_library_reads() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.safetensors");
        let specs = [TensorSpec::new("codes", Dtype::U8, &[7]), TensorSpec::new("scales", Dtype::F32, &[2])];
        let texts = ["late".to_string(), "later".to_string()];
        let mut writer = TensorWriter::create(&path, &specs, &texts, FORMAT).unwrap();
        writer.append("codes", &[1, 2, 3]).unwrap();
        writer.text("later", b"{}").unwrap();
        writer.append("scales", &[4; 8]).unwrap();
        assert_eq!(std::fs::read(&path).unwrap()[..8], [0; 8], "a file without its header is no safetensors file");
        writer.text("late", b"{\"offset\": 0.5}").unwrap();
        writer.append("codes", &[4, 5, 6, 7]).unwrap();
        writer.finish().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(file.tensor("codes").unwrap().data(), [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(
            (file.tensor("scales").unwrap().data(), file.tensor("later").unwrap().data()),
            (&[4; 8][..], &b"{}"[..])
        );
        assert_eq!(file.tensor("late").unwrap().data(), b"{\"offset\": 0.5}");
    }

    #[test]
    fn a_tensor_that_is_not_whole_is_a_fault_of_the_caller() {
        let dir = tempfile::tempdir().unwrap();
        let create = |name: &str| {
            let specs = [TensorSpec::new("a", Dtype::U8, &[3])];
            TensorWriter::create(&dir.path().join(name), &specs, &[], FORMAT).unwrap()
        };
        let mut short = create("short");
        short.append("a", &[1]).unwrap();
        assert!(matches!(short.finish(), Err(Error::Shape(text)) if text.contains("3 bytes, but 1 were given")));
        assert!(matches!(create("long").append("a", &[0; 4]), Err(Error::Shape(_))));
        assert!(matches!(create("other").append("b", &[0]), Err(Error::Shape(_))));
        assert!(matches!(create("text").text("a", b"x"), Err(Error::Shape(_))));
        let mut unannounced = create("unannounced");
        unannounced.append("a", &[0; 3]).unwrap();
        unannounced.text(&"x".repeat(300), b"x").unwrap();
        assert!(matches!(unannounced.finish(), Err(Error::Shape(text)) if text.contains("no room")));
    }

    #[test]
    fn values_that_must_not_be_saved_are_refused_before_a_file_exists() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.safetensors");
        let nan = NamedTensor { name: "n".into(), shape: vec![1], values: vec![f32::NAN] };
        assert!(matches!(write_tensors(&path, &[nan], FORMAT), Err(Error::NotFinite(_))));
        let twice = [named("a", &[2], 1), named("a", &[3], 2)];
        assert!(matches!(write_tensors(&path, &twice, FORMAT), Err(Error::Shape(_))));
        assert!(!path.exists());
    }
}
