//! Instructions per request, counted by valgrind: the figure that repeats on any machine, so that a budget can hold it.
//!
//! Two runs of the same gateway serve a different number of requests; the difference of their counts, divided, leaves
//! start-up and shutdown out. The budget is for the development build, which the tests have at hand; the release build
//! takes about a tenth of it.
use crate::bench::peers::wait_for;
use anyhow::{Context, Result, bail};
use clap::Args as ClapArgs;
use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use weir_test::free_port;

#[derive(ClapArgs)]
pub struct Args {
    /// The weir binary
    #[arg(long)]
    weir: PathBuf,
    /// Fail where a case takes more than its budget in xtask/budget.json allows
    #[arg(long)]
    check: bool,
}

impl Args {
    /// Every case, held to its budget.
    pub fn checked(weir: PathBuf) -> Args {
        Args { weir, check: true }
    }
}

const FEW: usize = 500;
const MANY: usize = 3500;
/// Threads that wake by the clock are counted too, and wake more often per request while the machine is busy (5 % more were seen). A case
/// over its budget is counted again; the least says what a request takes.
const ATTEMPTS: usize = 3;

const SMALL: &str = "GET /things/7 HTTP/1.1\r\nHost: bench.test\r\n\r\n";
const BROWSER: &str = "GET /team42/app/settings/profile?tab=security&lang=en HTTP/1.1\r\nHost: bench.test\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36\r\nAccept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\nAccept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br\r\nCookie: session=4d2f6b8a9c0e1f3a5b7d9e0c2a4f6b8d; theme=dark; consent=1\r\nReferer: https://www.example.com/team42/app/settings\r\nConnection: keep-alive\r\nSec-Fetch-Dest: document\r\nSec-Fetch-Mode: navigate\r\nCache-Control: max-age=0\r\n\r\n";

/// Name, request, with the trivial plugin.
const CASES: &[(&str, &str, bool)] = &[("small", SMALL, false), ("browser", BROWSER, false), ("small-plugin", SMALL, true)];

pub fn run(root: &Path, args: &Args) -> Result<()> {
    let budget: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(root.join("xtask/budget.json"))?).context("xtask/budget.json")?;
    let mut over = Vec::new();
    for (name, request, plugin) in CASES {
        let limit = budget[name].as_u64().with_context(|| format!("xtask/budget.json has no number for {name}"))?;
        let mut each = u64::MAX;
        for _ in 0..ATTEMPTS {
            let few = count(root, &args.weir, request, *plugin, FEW)?;
            let many = count(root, &args.weir, request, *plugin, MANY)?;
            each = each.min(many.saturating_sub(few) / (MANY - FEW) as u64);
            if each <= limit {
                break;
            }
        }
        println!("callgrind: {name}: {each} instructions per request (budget {limit})");
        if each > limit {
            over.push(format!("{name} takes {each} instructions, {limit} allowed"));
        }
    }
    if args.check && !over.is_empty() {
        bail!("{}; find out why, or raise xtask/budget.json and say why in the commit", over.join("; "));
    }
    Ok(())
}

/// Instructions of a whole run that serves `requests`.
fn count(root: &Path, weir: &Path, request: &str, plugin: bool, requests: usize) -> Result<u64> {
    let folder = tempfile::tempdir()?;
    let (port, backend) = (free_port(), Backend::start()?);
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(weir);
    command.args([
        "run",
        "--workers",
        "1",
        "--admin",
        "127.0.0.1:0",
        "--drain-time",
        "0s",
        "--to",
        &format!("http://127.0.0.1:{}", backend.port),
    ]);
    command.args(["--listen", &format!("127.0.0.1:{port}"), "--access-log"]).arg(folder.path().join("access.log"));
    if plugin {
        let path = folder.path().join("trivial.wasm");
        fs::write(&path, wat::parse_file(root.join("xtask/src/bench/trivial.wat"))?)?;
        command.arg("--plugin").arg(path);
    }
    let log = fs::File::create(folder.path().join("log"))?;
    let mut child = command.stdout(Stdio::null()).stderr(log).spawn().context("valgrind; Debian's package valgrind has it")?;
    let served = wait_for(&mut child, port, 120).and_then(|()| first(port, request)).and_then(|()| serve(port, request, requests));
    // SIGTERM through kill(1): std can only kill outright, and callgrind writes its total at the end.
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status()?;
    child.wait()?;
    let text = fs::read_to_string(folder.path().join("log"))?;
    served.with_context(|| text.clone())?;
    let line = text.lines().find(|l| l.contains("Collected :")).with_context(|| text.clone())?;
    line.rsplit(' ').next().and_then(|n| n.parse().ok()).with_context(|| line.to_string())
}

/// A port is open a moment before somebody accepts: asks until there is an answer.
fn first(port: u16, request: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while let Err(e) = serve(port, request, 1) {
        if Instant::now() > deadline {
            return Err(e);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// One connection, one request after the other.
fn serve(port: u16, request: &str, requests: usize) -> Result<()> {
    let mut s = TcpStream::connect(("127.0.0.1", port))?;
    s.set_nodelay(true)?;
    let mut buffer = [0; 8192];
    for _ in 0..requests {
        s.write_all(request.as_bytes())?;
        let mut got = 0;
        while !complete(&buffer[..got]) {
            let n = s.read(&mut buffer[got..])?;
            if n == 0 {
                bail!("closed after {:?}", String::from_utf8_lossy(&buffer[..got]));
            }
            got += n;
        }
        if !buffer.starts_with(b"HTTP/1.1 200") {
            bail!("answered {:?}", String::from_utf8_lossy(&buffer[..got]));
        }
    }
    Ok(())
}

/// A head and 1024 bytes.
fn complete(answer: &[u8]) -> bool {
    answer.windows(4).position(|w| w == b"\r\n\r\n").is_some_and(|end| answer.len() >= end + 4 + 1024)
}

/// Answers everything with 1 KB; its threads end with their connections.
struct Backend {
    port: u16,
}

impl Backend {
    fn start() -> Result<Backend> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || answer(stream));
            }
        });
        Ok(Backend { port })
    }
}

fn answer(mut s: TcpStream) -> std::io::Result<()> {
    let reply =
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nserver: backend\r\ncontent-length: 1024\r\n\r\n{}", "x".repeat(1024));
    let (mut buffer, mut held) = ([0; 8192], Vec::new());
    loop {
        let n = s.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        held.extend_from_slice(&buffer[..n]);
        while let Some(end) = held.windows(4).position(|w| w == b"\r\n\r\n") {
            held.drain(..end + 4);
            s.write_all(reply.as_bytes())?;
        }
    }
}
