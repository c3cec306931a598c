//! The judge is redis-server: every line of `tests/commands` is sent to both, and the answers are the same bytes.
#![allow(clippy::unwrap_used)]

use std::{fs, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpStream,
};
use weir_redis::{Options, Server};
use weir_test::RedisServer;

/// A connection to either.
struct Client<T>(BufReader<T>);

impl<T: AsyncRead + AsyncWrite + Unpin> Client<T> {
    async fn ask(&mut self, words: &[Vec<u8>]) -> Vec<u8> {
        let mut out = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            out.extend(format!("${}\r\n", word.len()).bytes().chain(word.iter().copied()).chain(*b"\r\n"));
        }
        self.0.write_all(&out).await.unwrap();
        let mut reply = Vec::new();
        self.reply(&mut reply).await;
        reply
    }

    /// One reply as it came.
    async fn reply(&mut self, out: &mut Vec<u8>) {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            // An end in place of a reply is seen as a difference.
            let Ok(byte) = self.0.read_u8().await else { return out.extend_from_slice(b"closed") };
            line.push(byte);
        }
        out.extend_from_slice(&line);
        let number = || std::str::from_utf8(&line[1..line.len() - 2]).unwrap().parse::<i64>().unwrap();
        match line[0] {
            b'$' if number() >= 0 => {
                let mut text = vec![0; usize::try_from(number()).unwrap() + 2];
                self.0.read_exact(&mut text).await.unwrap();
                out.extend_from_slice(&text);
            }
            b'*' => {
                for _ in 0..number().max(0) {
                    Box::pin(self.reply(out)).await;
                }
            }
            _ => {}
        }
    }
}

/// Words of a line; `"…"` with `\n`, `\t`, `\"`, `\\` and `\xff`.
fn words(line: &str) -> Vec<Vec<u8>> {
    let (mut words, mut word, mut quoted, mut started) = (Vec::new(), Vec::new(), false, false);
    let mut bytes = line.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => (quoted, started) = (!quoted, true),
            b'\\' if quoted => word.push(match bytes.next().unwrap() {
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'x' => {
                    let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
                    u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
                }
                other => other,
            }),
            b' ' if !quoted => {
                if started || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                started = false;
            }
            other => word.push(other),
        }
    }
    if started || !word.is_empty() {
        words.push(word);
    }
    words
}

/// The elements of a flat reply in some order: Redis keeps none for sets and keys.
fn sorted(reply: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(reply).into_owned();
    let mut lines: Vec<_> = text.split("\r\n").map(str::to_string).collect();
    lines.sort();
    lines
}

#[test]
fn every_answer_is_the_servers_own() {
    let real = RedisServer::start(&[]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let server = Server::start("judged", Options::default()).unwrap();
        let mut real = Client(BufReader::new(TcpStream::connect(("127.0.0.1", real.port)).await.unwrap()));
        let mut ours = Client(BufReader::new(server.connect()));
        let mut wrong = Vec::new();
        let mut files: Vec<_> =
            fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/commands")).unwrap().map(|f| f.unwrap().path()).collect();
        files.sort();
        let mut count = 0;
        for file in files {
            let flush = words("FLUSHALL");
            assert_eq!(real.ask(&flush).await, ours.ask(&flush).await);
            let name = file.file_name().unwrap().to_string_lossy().into_owned();
            for (number, line) in fs::read_to_string(&file).unwrap().lines().enumerate() {
                let line = line.trim();
                if line.is_empty() || line.starts_with('#') {
                    continue;
                }
                if let Some(key) = line.strip_prefix("GONE ") {
                    // Time passes for both until the key has expired.
                    let exists = words(&format!("EXISTS {key}"));
                    while real.ask(&exists).await != b":0\r\n" || ours.ask(&exists).await != b":0\r\n" {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    continue;
                }
                let (unordered, command) = line.strip_prefix("? ").map_or((false, line), |rest| (true, rest));
                let command = words(command);
                let (theirs, own) = (real.ask(&command).await, ours.ask(&command).await);
                count += 1;
                let same = if unordered { sorted(&theirs) == sorted(&own) } else { theirs == own };
                if !same {
                    let shown = |reply: &[u8]| String::from_utf8_lossy(reply).escape_debug().to_string();
                    eprintln!("{name}:{}", number + 1);
                    wrong.push(format!("{name}:{}: {line}\n  redis: {}\n  ours:  {}", number + 1, shown(&theirs), shown(&own)));
                }
            }
        }
        assert!(wrong.is_empty(), "{} of {count} differ\n{}", wrong.len(), wrong.join("\n"));
        assert!(count > 500, "{count}");
    });
}
