//! Where a hub keeps things on its node.
use anyhow::Result;
use clap::Args;
use std::path::PathBuf;
use weir_edge::store::key_file::{self, Key};

#[derive(Args, Clone, Debug)]
pub struct Place {
    /// Where answers are kept
    #[arg(long, value_name = "FOLDER", default_value = "/var/lib/weir/edge")]
    pub disk_cache_path: PathBuf,
    /// The key that encrypts them: 32 bytes in base64; made where there is none [default: the folder's name with `.key`]
    #[arg(long, value_name = "FILE")]
    pub disk_cache_key_file: Option<PathBuf>,
    /// Encrypt what is kept
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub disk_cache_encryption: bool,
    /// The Unix socket of the admin endpoints, for its owner only [default: `admin.sock` in the folder]
    #[arg(long, value_name = "FILE")]
    pub admin_socket: Option<PathBuf>,
}

impl Place {
    pub fn key_file(&self) -> PathBuf {
        let beside = || {
            let mut name = self.disk_cache_path.components().collect::<PathBuf>().into_os_string();
            name.push(".key");
            name.into()
        };
        self.disk_cache_key_file.clone().unwrap_or_else(beside)
    }

    pub fn admin_socket(&self) -> PathBuf {
        self.admin_socket.clone().unwrap_or_else(|| self.disk_cache_path.join("admin.sock"))
    }

    /// The key, which is made for a new store.
    pub fn make_key(&self) -> Result<Option<Key>> {
        let key = || key_file::read_or_create(&self.key_file(), &self.disk_cache_path);
        Ok(self.disk_cache_encryption.then(key).transpose()?)
    }
}
