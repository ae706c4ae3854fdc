//! One safetensors file: mapped for reading, and written so that what lies on the disk is known to be what was meant.
//!
//! The safetensors crate reads and checks the header (offsets, sizes, overflow); this file turns its faults into
//! sentences and streams tensors out without a second copy of them in memory.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, Metadata, SafeTensorError, TensorInfo};
use sha2::{Digest, Sha256};

use super::host_tensor::{HostDType, HostTensor, NamedTensor};
use crate::{Error, Result, bail_input};

/// The note of files for others: transformers 4 refuses a file without it.
pub(super) const FORMAT: (&str, &str) = ("format", "pt");

/// A mapped safetensors file with its checked header.
pub(super) struct TensorFile {
    path: PathBuf,
    map: Mmap,
    /// Where the first tensor begins.
    start: usize,
    metadata: Metadata,
}

impl TensorFile {
    pub fn open(path: &Path) -> Result<Self> {
        let map = map_file(path)?;
        let (n_header, metadata) = match SafeTensors::read_metadata(&map) {
            Ok(found) => found,
            Err(fault) => bail_input!("{}: {}", path.display(), describe(&fault, &map)),
        };
        Ok(TensorFile { path: path.to_path_buf(), map, start: 8 + n_header, metadata })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    pub fn contains(&self, name: &str) -> bool {
        self.metadata.info(name).is_some()
    }

    /// The note that was written with the tensors under `key`.
    pub fn note(&self, key: &str) -> Option<&str> {
        self.metadata.metadata().as_ref()?.get(key).map(String::as_str)
    }

    /// The tensor called `name`, of whatever shape.
    pub fn tensor(&self, name: &str) -> Result<HostTensor<'_>> {
        let Some(info) = self.metadata.info(name) else {
            bail_input!("{}: the tensor {name} is missing", self.path.display());
        };
        let dtype = match info.dtype {
            Dtype::F32 => HostDType::F32,
            Dtype::F16 => HostDType::F16,
            Dtype::BF16 => HostDType::BF16,
            other => {
                bail_input!("{}: tensor {name} has dtype {other}; F32, F16 or BF16 was expected", self.path.display())
            }
        };
        let (from, to) = info.data_offsets;
        let bytes = &self.map[self.start + from..self.start + to];
        Ok(HostTensor { name: name.to_string(), shape: info.shape.clone(), dtype, bytes })
    }

    /// The tensor called `name`, refused unless it has this shape.
    pub fn shaped(&self, name: &str, shape: &[usize]) -> Result<HostTensor<'_>> {
        let tensor = self.tensor(name)?;
        if tensor.shape != shape {
            bail_input!("{}: tensor {name} has shape {:?}; {shape:?} was expected", self.path.display(), tensor.shape);
        }
        Ok(tensor)
    }

    /// The tensor called `name` in fp32, refused if it holds a value that is not finite.
    pub fn owned(&self, name: &str) -> Result<NamedTensor> {
        let tensor = self.tensor(name)?;
        tensor.check_finite().map_err(|e| Error::Input(format!("{}: {e}", self.path.display())))?;
        Ok(NamedTensor { name: tensor.name.clone(), shape: tensor.shape.clone(), values: tensor.to_f32() })
    }

    fn sha256(&self) -> String {
        Sha256::digest(&self.map[..]).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Maps a file for reading.
#[allow(unsafe_code)]
fn map_file(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(Error::io(path))?;
    // SAFETY: the map is read-only and the bytes are only ever read as numbers, for which every bit pattern is valid,
    // or by the checked header parser, so no content can break an invariant. What remains is that another process
    // changes or shortens the file while it is mapped. This program never does: it replaces files by rename, which
    // leaves a mapped one as it was. For a model folder it is the user's promise, as in every loader that maps;
    // breaking it stops the process with SIGBUS.
    unsafe { Mmap::map(&file) }.map_err(Error::io(path))
}

/// Why a file is not a safetensors file, as a user would say it.
fn describe(fault: &SafeTensorError, bytes: &[u8]) -> String {
    let cut = |rest: String| format!("the file is truncated: {rest}; copy or download it again");
    if bytes.starts_with(b"version https://git-lfs") {
        return "this is a Git LFS pointer, not the weights; run `git lfs pull` in its repository".to_string();
    }
    match fault {
        SafeTensorError::HeaderTooSmall => {
            cut(format!("it has {} bytes, less than its header's length field", bytes.len()))
        }
        SafeTensorError::InvalidHeaderLength => {
            cut(format!("its header alone is longer than its {} bytes", bytes.len()))
        }
        SafeTensorError::MetadataIncompleteBuffer => {
            let n_header = bytes.first_chunk().map_or(0, |n| u64::from_le_bytes(*n) as usize);
            let header = bytes.get(8..8 + n_header).unwrap_or_default();
            let n_data = serde_json::from_slice::<Metadata>(header).map_or(0, |m| m.data_len());
            let (promised, found) = (8 + n_header + n_data, bytes.len());
            match found < promised {
                true => cut(format!("it has {found} bytes, its header promises {promised}")),
                false => format!(
                    "the file has {found} bytes, its header describes only {promised}; copy or download it again"
                ),
            }
        }
        other => format!("this is not a safetensors file ({other}); copy or download it again"),
    }
}

/// Writes `tensors` as F32 to the new file `path` with one note in the header, flushes it to the disk, reads it back,
/// compares every value bit for bit, and returns the file's SHA-256. The order of the tensors does not matter, and
/// there is only one note because the header's order of several is arbitrary: equal tensors give equal bytes.
pub(super) fn write_tensors(path: &Path, tensors: &[NamedTensor], note: (&str, &str)) -> Result<String> {
    let mut sorted: Vec<&NamedTensor> = tensors.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    for pair in sorted.windows(2) {
        if pair[0].name == pair[1].name {
            return Err(Error::Shape(format!("two tensors to be saved are called {}", pair[0].name)));
        }
    }
    let mut n_data = 0;
    let mut infos = Vec::with_capacity(sorted.len());
    for tensor in &sorted {
        tensor.check()?;
        let end = n_data + 4 * tensor.values.len();
        infos.push((
            tensor.name.clone(),
            TensorInfo { dtype: Dtype::F32, shape: tensor.shape.clone(), data_offsets: (n_data, end) },
        ));
        n_data = end;
    }
    let notes = HashMap::from([(note.0.to_string(), note.1.to_string())]);
    let metadata = Metadata::new(Some(notes), infos).map_err(|e| Error::Shape(e.to_string()))?;
    let mut header = serde_json::to_vec(&metadata).map_err(|e| Error::io(path)(e.into()))?;
    header.resize(header.len().next_multiple_of(8), b' ');

    let write = || -> std::io::Result<()> {
        let mut file = BufWriter::with_capacity(1 << 20, File::create_new(path)?);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        for tensor in &sorted {
            // The format is little-endian, as is every machine CUDA runs on.
            file.write_all(bytemuck::cast_slice(&tensor.values))?;
        }
        file.into_inner().map_err(|e| e.into_error())?.sync_all()
    };
    write().map_err(Error::io(path))?;
    read_back(path, &sorted, note)
}

fn read_back(path: &Path, saved: &[&NamedTensor], note: (&str, &str)) -> Result<String> {
    let file = TensorFile::open(path)?;
    if file.note(note.0) != Some(note.1) {
        return Err(differs(path, note.0));
    }
    for tensor in saved {
        let found = file.shaped(&tensor.name, &tensor.shape)?;
        if found.bytes != bytemuck::cast_slice::<f32, u8>(&tensor.values) {
            return Err(differs(path, &tensor.name));
        }
    }
    if file.names().len() != saved.len() {
        return Err(differs(path, "the list of tensors"));
    }
    Ok(file.sha256())
}

/// Writes a small file (a configuration) to the new file `path`, flushes it and reads it back.
pub(super) fn write_small(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut back = Vec::new();
    let mut write = || -> std::io::Result<()> {
        let mut file = File::create_new(path)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        File::open(path)?.read_to_end(&mut back).map(drop)
    };
    write().map_err(Error::io(path))?;
    if back == bytes { Ok(()) } else { Err(differs(path, "the text")) }
}

/// What was read back after writing is not what was written.
pub(super) fn differs(path: &Path, what: &str) -> Error {
    Error::io(path)(std::io::Error::other(format!(
        "{what} read back differs from what was written; the disk cannot be trusted"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::fixtures::{named, sentence};

    fn written(dir: &Path) -> (PathBuf, Vec<NamedTensor>) {
        let path = dir.join("w.safetensors");
        let tensors = vec![named("b", &[3, 5], 1), named("a", &[2], 2)];
        write_tensors(&path, &tensors, FORMAT).unwrap();
        (path, tensors)
    }

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
        let (path, mut tensors) = written(dir.path());
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
        assert_eq!(hash, TensorFile::open(&path).unwrap().sha256());
    }

    #[test]
    fn reading_back_notices_one_flipped_bit() {
        let dir = tempfile::tempdir().unwrap();
        let (path, tensors) = written(dir.path());
        let mut sorted: Vec<_> = tensors.iter().collect();
        sorted.sort_by(|a, b| a.name.cmp(&b.name));
        read_back(&path, &sorted, FORMAT).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(read_back(&path, &sorted, FORMAT).unwrap_err().to_string().contains("b read back differs"));
    }

    #[test]
    fn a_file_cut_anywhere_is_called_truncated() {
        let dir = tempfile::tempdir().unwrap();
        let (path, _) = written(dir.path());
        let whole = std::fs::read(&path).unwrap();
        for n in [0, 5, 8, 40, whole.len() - 1] {
            std::fs::write(&path, &whole[..n]).unwrap();
            let text = sentence(TensorFile::open(&path));
            assert!(text.contains("w.safetensors: the file is truncated"), "{n}: {text}");
        }
        let promise = format!("it has {} bytes, its header promises {}", whole.len() - 1, whole.len());
        assert!(sentence(TensorFile::open(&path)).contains(&promise));
        std::fs::write(&path, [&whole[..], b"more"].concat()).unwrap();
        assert!(sentence(TensorFile::open(&path)).contains("describes only"));
    }

    #[test]
    fn what_is_not_safetensors_is_said_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.safetensors");
        std::fs::write(&path, "version https://git-lfs.github.com/spec/v1\noid sha256:0\n").unwrap();
        assert!(sentence(TensorFile::open(&path)).contains("git lfs pull"));
        std::fs::write(&path, "<!doctype html><title>Not found</title>").unwrap();
        assert!(sentence(TensorFile::open(&path)).contains("not a safetensors file"));
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
