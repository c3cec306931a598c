//! Lines of a process that runs for long. It goes on when nobody reads them any more; `println!` would end it.
use std::{fmt::Arguments, io::Write};

/// A line on standard output.
macro_rules! say {
    ($($line:tt)*) => { $crate::cli::output::line(std::io::stdout(), format_args!($($line)*)) };
}

/// A warning on standard error.
macro_rules! warning {
    ($($line:tt)*) => { $crate::cli::output::line(std::io::stderr(), format_args!("warning: {}", format_args!($($line)*))) };
}

pub(crate) use {say, warning};

pub fn line(mut out: impl Write, line: Arguments<'_>) {
    let _ = writeln!(out, "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_pipe_ends_nothing() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        line(&writer, format_args!("nobody reads this"));
    }
}
