//! A name server for tests: answers A and AAAA questions on a loopback UDP port from a table that can be changed.
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{Arc, Mutex, atomic::AtomicU32, atomic::Ordering},
    time::Duration,
};

/// Addresses and time to live in seconds; no entry answers NXDOMAIN.
type Table = HashMap<String, (Vec<IpAddr>, u32)>;

pub struct DnsServer {
    pub address: SocketAddr,
    table: Arc<Mutex<Table>>,
    /// Questions answered so far.
    pub questions: Arc<AtomicU32>,
    /// Keeps silent while set: a server that does not answer.
    pub silent: Arc<std::sync::atomic::AtomicBool>,
}

impl DnsServer {
    pub fn start() -> DnsServer {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let server =
            DnsServer { address: socket.local_addr().unwrap(), table: Arc::default(), questions: Arc::default(), silent: Arc::default() };
        let (table, questions, silent) = (Arc::downgrade(&server.table), server.questions.clone(), server.silent.clone());
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        std::thread::spawn(move || {
            let mut buf = [0; 512];
            while let Some(table) = table.upgrade() {
                let Ok((n, from)) = socket.recv_from(&mut buf) else { continue };
                if silent.load(Ordering::Relaxed) {
                    continue;
                }
                let answer = answer(&buf[..n], &table.lock().unwrap());
                questions.fetch_add(1, Ordering::Relaxed);
                let _ = socket.send_to(&answer, from);
            }
        });
        server
    }

    pub fn set(&self, name: &str, addresses: &[&str], ttl: u32) {
        let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
        self.table.lock().unwrap().insert(name.to_string(), (addresses, ttl));
    }

    pub fn remove(&self, name: &str) {
        self.table.lock().unwrap().remove(name);
    }
}

fn answer(query: &[u8], table: &Table) -> Vec<u8> {
    let (mut at, mut labels) = (12, Vec::new());
    while query[at] != 0 {
        let n = usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..at + 1 + n]).to_ascii_lowercase());
        at += 1 + n;
    }
    let kind = query[at + 2];
    let question = &query[12..at + 5];
    let found = table.get(&labels.join("."));
    let wanted: Vec<_> = found.iter().flat_map(|(a, _)| a).filter(|a| kind == if a.is_ipv4() { 1 } else { 28 }).collect();
    let code = if found.is_some() { 0 } else { 3 };
    let mut out = vec![query[0], query[1], 0x81, 0x80 | code, 0, 1, 0, wanted.len() as u8, 0, 0, 0, 0];
    out.extend_from_slice(question);
    for ip in wanted {
        let data = match ip {
            IpAddr::V4(a) => a.octets().to_vec(),
            IpAddr::V6(a) => a.octets().to_vec(),
        };
        out.extend_from_slice(&[0xc0, 12, 0, kind, 0, 1]);
        out.extend_from_slice(&found.unwrap().1.to_be_bytes());
        out.extend_from_slice(&[0, data.len() as u8]);
        out.extend_from_slice(&data);
    }
    out
}
