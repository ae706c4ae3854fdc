//! One safetensors file, mapped for reading: the safetensors crate reads and checks the header (offsets, sizes, overflow),
//! this file turns its faults into sentences.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, Metadata, SafeTensorError};
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

/// A tensor of any type as it lies in the file.
pub(super) struct RawTensor<'a> {
    pub dtype: Dtype,
    pub shape: &'a [usize],
    pub bytes: &'a [u8],
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

    /// The tensor called `name`, of whatever type and shape.
    pub fn raw(&self, name: &str) -> Option<RawTensor<'_>> {
        let info = self.metadata.info(name)?;
        let (from, to) = info.data_offsets;
        Some(RawTensor { dtype: info.dtype, shape: &info.shape, bytes: &self.map[self.start + from..self.start + to] })
    }

    /// The tensor called `name`, of whatever shape.
    pub fn tensor(&self, name: &str) -> Result<HostTensor<'_>> {
        let Some(raw) = self.raw(name) else {
            bail_input!("{}: the tensor {name} is missing", self.path.display());
        };
        let dtype = match raw.dtype {
            Dtype::F32 => HostDType::F32,
            Dtype::F16 => HostDType::F16,
            Dtype::BF16 => HostDType::BF16,
            other => {
                bail_input!("{}: tensor {name} has dtype {other}; F32, F16 or BF16 was expected", self.path.display())
            }
        };
        Ok(HostTensor { name: name.to_string(), shape: raw.shape.to_vec(), dtype, bytes: raw.bytes })
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
}

/// The SHA-256 of a file, in hexadecimal.
pub(super) fn sha256_hex(path: &Path) -> Result<String> {
    Ok(Sha256::digest(&map_file(path)?[..]).iter().map(|byte| format!("{byte:02x}")).collect())
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
    use crate::checkpoint::tensor_writer::write_tensors;

    #[test]
    fn a_file_cut_anywhere_is_called_truncated() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.safetensors");
        write_tensors(&path, &[named("b", &[3, 5], 1), named("a", &[2], 2)], FORMAT).unwrap();
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
}
