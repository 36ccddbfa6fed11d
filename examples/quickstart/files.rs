//! The files that are moved: finds them, reads them into memory so that the disk is not measured, and cuts them
//! into batches of frames. Every limit on memory is here.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::wire::{self, Digest};

/// Most bytes of files taken. The receiver holds at most as much again, so a run stays near 1 GiB.
pub(crate) const BYTES_MAX: u64 = 512 << 20;

/// Most files taken, and most in a batch; each costs a digest in every answer.
const FILES_MAX: usize = 100_000;

/// About how much is sent between two looks at the clock: long enough that a wake-up at its start does not count, short
/// enough that the contenders take turns often.
const BATCH_LEN: usize = 64 << 20;

/// Least bytes that lie back to back in memory.
const SPAN_MIN: usize = 4 * wire::PIECE;

/// Directories left out wherever they are: what is built, and what git keeps.
const LEFT_OUT: [&str; 2] = ["target", ".git"];

/// Names and sizes of what will be moved.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// Path under the directory, and size.
    files: Vec<(String, u64)>,
    /// Sum of the sizes.
    bytes: u64,
    /// Something was left out to stay within [`BYTES_MAX`] and [`FILES_MAX`].
    pub(crate) cut: bool,
    /// Files and directories that could not be read.
    pub(crate) unreadable: usize,
}

/// Some of the files, in frames, back to back.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// The frames.
    pub(crate) frames: Vec<u8>,
    /// What the receiver should find.
    pub(crate) digests: Vec<Digest>,
    /// How many times the frames are sent, so that a small tree gives enough to measure.
    pub(crate) repeat: usize,
}

/// The files in memory.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// Number of files.
    pub(crate) files: u64,
    /// Bytes in them.
    pub(crate) bytes: u64,
    /// At least one.
    pub(crate) batches: Vec<Batch>,
}

/// Looks for regular files under `dir`. The error is one sentence that names `dir` and what is wrong with it.
pub(crate) fn survey(dir: &Path) -> Result<Survey, String> {
    let name = dir.display();
    let metadata = fs::metadata(dir).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => format!("{name}: there is no such directory"),
        _ => format!("{name}: {error}"),
    })?;
    if !metadata.is_dir() {
        return Err(format!("{name} is not a directory; name one whose files are to be moved"));
    }
    fs::read_dir(dir).map_err(|error| format!("{name} cannot be read: {error}"))?;
    let mut survey = Survey::default();
    survey.walk(dir);
    if survey.bytes > 0 {
        return Ok(survey);
    }
    Err(match (survey.cut, survey.unreadable) {
        (true, _) => {
            format!("{name} holds no file of at most {} MiB, which is what is kept in memory", BYTES_MAX >> 20)
        }
        (false, 0) => format!("{name} holds no files with anything in them (target/ and .git/ are left out)"),
        (false, _) => format!("{name} holds no files that this user can read"),
    })
}

impl Survey {
    /// Takes what is under `root`, in order of name. Symbolic links are not followed, so it ends.
    fn walk(&mut self, root: &Path) {
        let mut pending = vec![PathBuf::new()];
        while let Some(under) = pending.pop() {
            let Ok(entries) = fs::read_dir(root.join(&under)).and_then(Iterator::collect::<io::Result<Vec<_>>>) else {
                self.unreadable += 1;
                continue;
            };
            let mut entries: Vec<_> = entries.into_iter().map(|entry| (entry.file_name(), entry)).collect();
            entries.sort_by(|(a, _), (b, _)| a.cmp(b));
            for (name, entry) in entries {
                let path = under.join(&name);
                match entry.metadata() {
                    Ok(metadata) if metadata.is_dir() => {
                        if !LEFT_OUT.iter().any(|left_out| name == *left_out) {
                            pending.push(path);
                        }
                    }
                    Ok(metadata) if metadata.is_file() => {
                        if !self.take(path.to_string_lossy().into_owned(), metadata.len()) {
                            return;
                        }
                    }
                    Ok(_) => {}
                    Err(_) => self.unreadable += 1,
                }
            }
        }
    }

    /// Takes one file; false when there is no room for more.
    fn take(&mut self, path: String, len: u64) -> bool {
        if self.files.len() == FILES_MAX || (len <= BYTES_MAX && self.bytes + len > BYTES_MAX) {
            self.cut = true;
            return false;
        }
        // One that is too large by itself does not stand in the way of the others.
        if len > BYTES_MAX || path.len() > usize::from(u16::MAX) {
            self.cut = true;
        } else {
            self.bytes += len;
            self.files.push((path, len));
        }
        true
    }

    /// Reads the files under `root`. One that has vanished or cannot be opened is left out and counted.
    pub(crate) fn load(&mut self, root: &Path) -> Result<Loaded, String> {
        let mut loaded = Loaded { files: 0, bytes: 0, batches: Vec::new() };
        let mut batch = Batch::default();
        for (path, _) in &self.files {
            let content = match fs::read(root.join(path)) {
                Ok(content) if loaded.bytes + content.len() as u64 <= BYTES_MAX => content,
                _ => {
                    self.unreadable += 1;
                    continue;
                }
            };
            let len = content.len() as u64;
            if batch.frames.len() as u64 + wire::frame_len(path, len) > BATCH_LEN as u64 && !batch.frames.is_empty() {
                loaded.batches.push(std::mem::take(&mut batch));
            }
            batch.push(path, &content);
            loaded.files += 1;
            loaded.bytes += len;
        }
        loaded.batches.push(batch);
        if loaded.bytes == 0 {
            return Err(format!("{} holds no files that this user can read", root.display()));
        }
        loaded.batches.iter_mut().for_each(Batch::repeat);
        Ok(loaded)
    }
}

impl Batch {
    fn push(&mut self, path: &str, content: &[u8]) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(path.as_bytes()).update(content);
        self.digests.push(*hasher.finalize().as_bytes());
        self.frames.extend_from_slice(&wire::frame_header(path, content.len() as u64));
        self.frames.extend_from_slice(content);
    }

    /// Says how often it is sent. A few small files are copied until they fill whole pieces: writes of some bytes
    /// each would measure system calls.
    fn repeat(&mut self) {
        let (len, files) = (self.frames.len(), self.digests.len());
        let copies = (SPAN_MIN / len).clamp(1, FILES_MAX / files);
        self.frames = self.frames.repeat(copies);
        self.digests = self.digests.repeat(copies);
        let (len, files) = (len * copies, files * copies);
        self.repeat = (BATCH_LEN / len).clamp(1, FILES_MAX / files);
    }

    /// Bytes sent for it.
    pub(crate) fn len(&self) -> u64 {
        (self.frames.len() * self.repeat) as u64
    }

    /// Files sent for it.
    pub(crate) fn files(&self) -> usize {
        self.digests.len() * self.repeat
    }
}
