//! What a service manager is told (sd_notify(3)).
use std::{
    env,
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

/// This process serves. With `Type=notify` and `NotifyAccess=all`, systemd follows it from the process that it takes over from.
pub fn ready() -> io::Result<()> {
    match env::var_os("NOTIFY_SOCKET") {
        Some(socket) => tell(&socket, &format!("READY=1\nMAINPID={}\n", std::process::id())),
        None => Ok(()),
    }
}

fn tell(socket: &OsStr, text: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
    };
    UnixDatagram::unbound()?.send_to_addr(text.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_manager_is_told() {
        let folder = env::temp_dir().join(format!("weir-notify-{}", std::process::id()));
        let socket = UnixDatagram::bind(&folder).unwrap();
        tell(folder.as_os_str(), "READY=1\n").unwrap();
        let mut got = [0; 64];
        let read = socket.recv(&mut got).unwrap();
        std::fs::remove_file(&folder).unwrap();
        assert_eq!(&got[..read], b"READY=1\n");
    }
}
