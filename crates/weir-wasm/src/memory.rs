//! The guest's memory as host calls see it. Every access is checked; nothing is held across a call of the guest's allocator, which may
//! grow the memory, collect garbage and call host functions.
use crate::{
    host::{LogLevel, Status},
    state::Host,
};
use wasmtime::{Caller, Extern, Memory};

pub(crate) type Guest<'a> = Caller<'a, Host>;

/// How a host call fails: with a status for the guest, or by ending it.
pub(crate) enum Fail {
    Status(Status),
    Trap(wasmtime::Error),
}

pub(crate) type Call<T = ()> = Result<T, Fail>;

impl From<Status> for Fail {
    fn from(status: Status) -> Fail {
        Fail::Status(status)
    }
}

impl From<wasmtime::Error> for Fail {
    fn from(error: wasmtime::Error) -> Fail {
        Fail::Trap(error)
    }
}

/// A status that an implementor returned, as a result.
pub(crate) fn check(status: Status) -> Call {
    if status == Status::Ok { Ok(()) } else { Err(status.into()) }
}

/// What the guest gets; every host call ends here.
pub(crate) fn finish(result: Call) -> wasmtime::Result<u32> {
    match result {
        Ok(()) => Ok(Status::Ok as u32),
        Err(Fail::Status(status)) => Ok(status as u32),
        Err(Fail::Trap(error)) => Err(error),
    }
}

fn memory(guest: &mut Guest<'_>) -> Result<Memory, Status> {
    if let Some(memory) = guest.data().memory {
        return Ok(memory);
    }
    // The module's start section runs before the instance is known.
    match guest.get_export("memory") {
        Some(Extern::Memory(memory)) => Ok(memory),
        _ => Err(Status::InvalidMemoryAccess),
    }
}

fn range(start: u32, len: u32) -> Result<std::ops::Range<usize>, Status> {
    let start = usize::try_from(start).map_err(|_| Status::InvalidMemoryAccess)?;
    let len = usize::try_from(len).map_err(|_| Status::InvalidMemoryAccess)?;
    Ok(start..start.checked_add(len).ok_or(Status::InvalidMemoryAccess)?)
}

/// The guest's memory, and the host's state beside it.
pub(crate) struct View<'a> {
    memory: &'a mut [u8],
    pub host: &'a mut Host,
}

pub(crate) fn view<'a>(guest: &'a mut Guest<'_>) -> Result<View<'a>, Status> {
    let memory = memory(guest)?;
    let (memory, host) = memory.data_and_store_mut(guest);
    Ok(View { memory, host })
}

impl View<'_> {
    /// Bytes of the guest's memory.
    pub fn memory_len(&self) -> usize {
        self.memory.len()
    }

    pub fn bytes(&self, start: u32, len: u32) -> Result<&[u8], Status> {
        self.memory.get(range(start, len)?).ok_or(Status::InvalidMemoryAccess)
    }

    /// Writes a record from guest memory to the plugin's log.
    pub fn log(&self, level: LogLevel, start: u32, len: u32) -> Result<(), Status> {
        self.host.log(level, self.bytes(start, len)?);
        Ok(())
    }

    /// Text that the ABI wants as a name.
    pub fn text(&self, start: u32, len: u32) -> Result<&str, Status> {
        std::str::from_utf8(self.bytes(start, len)?).map_err(|_| Status::BadArgument)
    }

    pub fn bytes_mut(&mut self, start: u32, len: u32) -> Result<&mut [u8], Status> {
        self.memory.get_mut(range(start, len)?).ok_or(Status::InvalidMemoryAccess)
    }

    pub fn put(&mut self, at: u32, bytes: &[u8]) -> Result<(), Status> {
        let len = u32::try_from(bytes.len()).map_err(|_| Status::InvalidMemoryAccess)?;
        self.bytes_mut(at, len)?.copy_from_slice(bytes);
        Ok(())
    }

    pub fn put_u32(&mut self, at: u32, value: u32) -> Result<(), Status> {
        self.put(at, &value.to_le_bytes())
    }

    pub fn put_u64(&mut self, at: u32, value: u64) -> Result<(), Status> {
        self.put(at, &value.to_le_bytes())
    }
}

/// Asks the guest for space; `len` is not 0. A trap of its allocator ends the guest.
pub(crate) fn allocate(guest: &mut Guest<'_>, len: usize) -> Call<u32> {
    let len = u32::try_from(len).map_err(|_| Status::InternalFailure)?;
    let allocate = guest.data().allocate.clone().ok_or(Status::InternalFailure)?;
    match allocate.call(&mut *guest, len)? {
        0 => Err(Status::InternalFailure.into()),
        start => Ok(start),
    }
}

/// Hands a value over in space that the guest allocates; an empty one is written as 0, 0.
pub(crate) fn give(guest: &mut Guest<'_>, value: &[u8], start_out: u32, len_out: u32) -> Call {
    give_with(guest, value.len(), start_out, len_out, |_, out| {
        out.copy_from_slice(value);
        out.len()
    })
}

/// As [`give`], with the value written straight into the guest's memory; `fill` says how much it wrote.
pub(crate) fn give_with(
    guest: &mut Guest<'_>,
    len: usize,
    start_out: u32,
    len_out: u32,
    fill: impl FnOnce(&mut Host, &mut [u8]) -> usize,
) -> Call {
    let start = if len == 0 { 0 } else { allocate(guest, len)? };
    let mut view = view(guest)?;
    let mut len = u32::try_from(len).map_err(|_| Status::InternalFailure)?;
    if len > 0 {
        let out = view.memory.get_mut(range(start, len)?).ok_or(Status::InvalidMemoryAccess)?;
        len = u32::try_from(fill(view.host, out).min(out.len())).map_err(|_| Status::InternalFailure)?;
    }
    view.put_u32(start_out, start)?;
    view.put_u32(len_out, len)?;
    Ok(())
}

/// Lends the instance's scratch space to a host call.
pub(crate) fn with_scratch<T>(guest: &mut Guest<'_>, work: impl FnOnce(&mut Guest<'_>, &mut Vec<u8>) -> Call<T>) -> Call<T> {
    const KEEP: usize = 64 << 10;
    let mut scratch = std::mem::take(&mut guest.data_mut().scratch);
    scratch.clear();
    let result = work(guest, &mut scratch);
    if scratch.capacity() <= KEEP {
        guest.data_mut().scratch = scratch;
    }
    result
}
