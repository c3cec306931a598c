//! The file that says what a store is: the version of its format, and which key opens it. Holding it locked, one process owns the store.
use super::{OpenError, crypt::Cipher, record::Reader, twice};
use std::{
    fs::{self, File, TryLockError},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

/// Written by this version.
pub const FORMAT: u16 = 1;
const MAGIC: &twice::Magic = b"WEIRSTOR";
const NAME: &str = "format";
const CHECK: &[u8] = b"the key of this store";

pub struct Format {
    pub cipher: Cipher,
    lock: File,
}

impl Drop for Format {
    fn drop(&mut self) {
        self.unlock();
    }
}

impl Format {
    /// Lets another process own the store.
    pub fn unlock(&self) {
        // A process that is being forked holds the file a little longer.
        let _ = self.lock.unlock();
    }
}

/// What the file says.
struct About {
    salt: [u8; 16],
    encrypted: bool,
    /// Text that the key of the store has sealed.
    check: Vec<u8>,
}

impl About {
    /// `None`: there is no store in the folder.
    fn read(folder: &Path) -> Result<Option<About>, OpenError> {
        let path = folder.join(NAME);
        let bytes = match fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes.map_err(|error| OpenError::Io { path: path.clone(), error })?,
        };
        let damaged = || OpenError::Damaged { path: path.clone() };
        let (body, _) = twice::decode(MAGIC, &bytes).ok_or_else(damaged)?;
        let mut reader = Reader(body);
        let version = |reader: &mut Reader<'_>| reader.array().map(u16::from_le_bytes).ok_or_else(damaged);
        let (_written, readable) = (version(&mut reader)?, version(&mut reader)?);
        if readable > FORMAT {
            return Err(OpenError::Newer { folder: folder.into(), found: readable, supported: FORMAT });
        }
        let salt = reader.array().ok_or_else(damaged)?;
        let encrypted = reader.u8().ok_or_else(damaged)? != 0;
        Ok(Some(About { salt, encrypted, check: reader.0.to_vec() }))
    }
}

/// `None`: there is no store in the folder.
pub fn is_encrypted(folder: &Path) -> Result<Option<bool>, OpenError> {
    Ok(About::read(folder)?.map(|about| about.encrypted))
}

/// Opens the folder's format file, or begins a store where there is none.
pub fn open(folder: &Path, key: Option<&[u8; 32]>) -> Result<Format, OpenError> {
    let path = folder.join(NAME);
    let io = |e| OpenError::Io { path: path.clone(), error: e };
    let file = match File::open(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            begin(folder, key)?;
            File::open(&path).map_err(io)?
        }
        file => file.map_err(io)?,
    };
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(OpenError::InUse { folder: folder.into() }),
        Err(TryLockError::Error(e)) => return Err(io(e)),
    }
    let about = About::read(folder)?.ok_or_else(|| OpenError::Damaged { path: path.clone() })?;
    let cipher = match (about.encrypted, key) {
        (false, None) => Cipher::NONE,
        (true, Some(key)) => Cipher::new(key, &about.salt).ok_or(OpenError::Crypto)?,
        (true, None) => return Err(OpenError::KeyMissing { folder: folder.into() }),
        (false, Some(_)) => return Err(OpenError::NotEncrypted { folder: folder.into() }),
    };
    if cipher.open(&about.check, &about.salt).is_none_or(|check| check != CHECK) {
        return Err(OpenError::WrongKey { folder: folder.into() });
    }
    Ok(Format { cipher, lock: file })
}

fn begin(folder: &Path, key: Option<&[u8; 32]>) -> Result<(), OpenError> {
    let io = |e| OpenError::Io { path: folder.into(), error: e };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io)?;
    let has_log = fs::read_dir(folder).map_err(io)?.flatten().any(|e| e.path().extension().is_some_and(|x| x == "log"));
    if has_log {
        return Err(OpenError::Damaged { path: folder.join(NAME) });
    }
    let mut salt = [0; 16];
    aws_lc_rs::rand::fill(&mut salt).map_err(|_| OpenError::Crypto)?;
    let cipher = key.map_or(Some(Cipher::NONE), |key| Cipher::new(key, &salt)).ok_or(OpenError::Crypto)?;
    let check = cipher.seal(CHECK.to_vec(), &salt).ok_or(OpenError::Crypto)?;
    // A later version that this one can read says so in the second number.
    let body = [&FORMAT.to_le_bytes()[..], &FORMAT.to_le_bytes(), &salt, &[u8::from(key.is_some())], &check].concat();
    write_whole(folder, NAME, &twice::encode(MAGIC, &body)).map_err(io)
}

/// Writes a file so that it exists whole or not at all, also after a power cut.
fn write_whole(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = folder.join(format!("{name}.tmp"));
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, folder.join(name))?;
    super::segment::sync_folder(folder)
}
