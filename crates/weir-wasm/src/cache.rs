//! Compiled code on disk: a Go plugin compiles for seconds and loads from here in milliseconds.
//!
//! An artifact is machine code that will run in this process, so the folder must belong to this user alone. Each file is named by the
//! digest of the code and the engine's settings and version, and beside it lies the digest of its content. One that does not match
//! (torn, a failing disk) is compiled again, and so is anything that the engine refuses.
use crate::{
    declared::ModuleError,
    engine::{Compiler, Engine},
    module::Module,
};
use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File},
    hash::{Hash, Hasher},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::SystemTime,
};

const SUFFIX: &str = "cwasm";
const DIGEST: &str = "sha256";
/// Kept unless said otherwise: about sixty large Go plugins.
pub const DEFAULT_MAX_BYTES: u64 = 2 << 30;

/// A folder of artifacts, bounded in size: the ones used longest ago go first. Several processes may share it.
pub struct Cache {
    folder: PathBuf,
    max_bytes: u64,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Cache {
    /// Makes the folder, readable by this user alone, when it is not there.
    pub fn open(folder: impl Into<PathBuf>, max_bytes: u64) -> io::Result<Cache> {
        use std::os::unix::fs::{DirBuilderExt, MetadataExt};
        let folder = folder.into();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let meta = fs::metadata(&folder)?;
        if meta.uid() != rustix::process::geteuid().as_raw() || meta.mode() & 0o022 != 0 {
            let message = format!("{}: others can write here, so that code from here cannot be trusted", folder.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
        Ok(Cache { folder, max_bytes, hits: AtomicU64::new(0), misses: AtomicU64::new(0) })
    }

    /// Loads the code's artifact, or compiles and optimizes it and leaves one. Blocking.
    pub fn load(&self, engine: &Engine, wasm: &[u8]) -> Result<Module, ModuleError> {
        match self.find(engine, wasm) {
            Some(module) => module,
            None => self.compile(engine, wasm),
        }
    }

    /// Loads the code's artifact if there is one. Blocking.
    pub fn find(&self, engine: &Engine, wasm: &[u8]) -> Option<Result<Module, ModuleError>> {
        let found = read(engine, &self.path(engine, wasm));
        let count = if found.is_some() { &self.hits } else { &self.misses };
        count.fetch_add(1, Relaxed);
        Some(Module::link(engine, &found?, Compiler::Cranelift))
    }

    /// Compiles and optimizes code and leaves an artifact. Blocking. That nothing can be kept is no error.
    pub fn compile(&self, engine: &Engine, wasm: &[u8]) -> Result<Module, ModuleError> {
        let compiled = Module::compile_raw(&engine.wasmtime, wasm)?;
        // Refused code leaves nothing behind.
        let module = Module::link(engine, &compiled, Compiler::Cranelift)?;
        let path = self.path(engine, wasm);
        let kept = compiled.serialize().is_ok_and(|artifact| self.write(&path, &artifact).is_ok());
        // Mapped from the file, the code counts less: the kernel can drop it and read it again.
        let mapped = if kept { deserialize(engine, &path) } else { None };
        Ok(mapped.and_then(|mapped| Module::link(engine, &mapped, Compiler::Cranelift).ok()).unwrap_or(module))
    }

    fn path(&self, engine: &Engine, wasm: &[u8]) -> PathBuf {
        self.folder.join(format!("{}.{SUFFIX}", key(engine, wasm)))
    }

    /// Modules found on disk, and not found, since the start.
    pub fn counts(&self) -> (u64, u64) {
        (self.hits.load(Relaxed), self.misses.load(Relaxed))
    }

    /// Whole or not at all: a file gets its name when it is complete. The digest comes first, so that an artifact without is worthless.
    fn write(&self, path: &Path, artifact: &[u8]) -> io::Result<()> {
        if artifact.len() as u64 > self.max_bytes {
            return Ok(());
        }
        place(&path.with_extension(DIGEST), &Sha256::digest(artifact))?;
        place(path, artifact)?;
        self.trim(path)
    }

    fn trim(&self, keep: &Path) -> io::Result<()> {
        let mut files: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let (path, meta) = (entry.path(), entry.metadata()?);
            if path.extension().is_some_and(|e| e == SUFFIX) && path != keep {
                files.push((meta.modified()?, meta.len(), path));
            }
        }
        files.sort();
        let mut total = files.iter().map(|f| f.1).sum::<u64>() + fs::metadata(keep)?.len();
        for (_, len, path) in files {
            if total <= self.max_bytes {
                break;
            }
            // A process that has it mapped keeps it.
            fs::remove_file(&path)?;
            let _ = fs::remove_file(path.with_extension(DIGEST));
            total -= len;
        }
        Ok(())
    }
}

fn place(path: &Path, content: &[u8]) -> io::Result<()> {
    static UNIQUE: AtomicU64 = AtomicU64::new(0);
    let temporary = path.with_extension(format!("{}.{}.tmp", std::process::id(), UNIQUE.fetch_add(1, Relaxed)));
    let written = File::create(&temporary).and_then(|mut f| f.write_all(content)).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Artifacts of other code, other settings, another wasmtime or another processor have other names.
fn key(engine: &Engine, wasm: &[u8]) -> String {
    struct Feed(Sha256);
    impl Hasher for Feed {
        fn finish(&self) -> u64 {
            0
        }
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
    }
    let mut feed = Feed(Sha256::new());
    engine.wasmtime.precompile_compatibility_hash().hash(&mut feed);
    feed.0.update(wasm);
    HEXLOWER.encode(&feed.0.finalize())
}

fn read(engine: &Engine, path: &Path) -> Option<wasmtime::Module> {
    let mut file = File::open(path).ok()?;
    let expected = fs::read(path.with_extension(DIGEST)).ok()?;
    if digest(&mut file).ok()?[..] != expected[..] {
        return None;
    }
    // For trim: the time of the last use.
    let _ = file.set_modified(SystemTime::now());
    deserialize(engine, path)
}

fn digest(file: &mut File) -> io::Result<[u8; 32]> {
    let (mut sha, mut chunk) = (Sha256::new(), vec![0; 64 << 10]);
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(sha.finalize().into()),
            n => sha.update(&chunk[..n]),
        }
    }
}

/// The only unsafe code of this crate; wasmtime offers no other way to map compiled code.
#[allow(unsafe_code)]
fn deserialize(engine: &Engine, path: &Path) -> Option<wasmtime::Module> {
    // SAFETY: the file was written by `Cache::write` from `Module::serialize`: its name is the digest of code and engine, its content
    // matches the digest that was stored with it, the folder can be written by this user alone (checked in `open`), and files in it are
    // replaced or removed by name, never changed in place.
    unsafe { wasmtime::Module::deserialize_file(&engine.wasmtime, path) }.ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::EngineOptions;

    fn plugin(salt: u32) -> Vec<u8> {
        wat::parse_str(format!(
            r#"(module (memory (export "memory") 1) (func (export "proxy_abi_version_0_2_1")) (global i32 (i32.const {salt}))
                 (func (export "malloc") (param i32) (result i32) i32.const 8))"#
        ))
        .unwrap()
    }

    fn artifacts(folder: &Path, suffix: &str) -> Vec<PathBuf> {
        let files = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
        files.filter(|p| p.extension().is_some_and(|e| e == suffix)).collect()
    }

    #[test]
    fn artifacts_are_reused_and_broken_ones_compiled_anew() {
        let engine = Engine::new(EngineOptions::default()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let cache = || Cache::open(folder.path(), DEFAULT_MAX_BYTES).unwrap();
        let counts = |cache: Cache| cache.load(&engine, &plugin(1)).map(|_| cache.counts()).unwrap();
        assert_eq!(counts(cache()), (0, 1));
        assert_eq!(counts(cache()), (1, 0), "another process finds it");
        let [artifact] = artifacts(folder.path(), SUFFIX).try_into().unwrap();
        assert_eq!(artifacts(folder.path(), "tmp"), Vec::<PathBuf>::new());

        let good = fs::read(&artifact).unwrap();
        let mut flipped = good.clone();
        flipped[good.len() / 2] ^= 1;
        for (what, bad) in [("flipped", flipped), ("torn", good[..good.len() / 2].to_vec()), ("empty", Vec::new())] {
            fs::write(&artifact, bad).unwrap();
            assert_eq!(counts(cache()), (0, 1), "{what}");
            assert_eq!(counts(cache()), (1, 0), "{what}: mended");
        }
        fs::remove_file(artifact.with_extension(DIGEST)).unwrap();
        assert_eq!(counts(cache()), (0, 1), "without its digest");
    }

    #[test]
    fn the_folder_is_bounded_and_the_longest_unused_goes() {
        let engine = Engine::new(EngineOptions::default()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let len = {
            let cache = Cache::open(folder.path(), DEFAULT_MAX_BYTES).unwrap();
            cache.load(&engine, &plugin(1)).unwrap();
            fs::metadata(&artifacts(folder.path(), SUFFIX)[0]).unwrap().len()
        };
        let cache = Cache::open(folder.path(), len * 5 / 2).unwrap();
        for salt in 1..=5 {
            cache.load(&engine, &plugin(salt)).unwrap();
        }
        assert_eq!(artifacts(folder.path(), SUFFIX).len(), 2);
        assert_eq!(artifacts(folder.path(), DIGEST).len(), 2);
        cache.load(&engine, &plugin(5)).unwrap();
        assert_eq!(cache.counts(), (2, 4), "the first and the last were there");
    }

    #[test]
    fn a_folder_that_others_can_write_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(Cache::open(folder.path(), 0).err().unwrap().kind(), io::ErrorKind::PermissionDenied);
    }
}
