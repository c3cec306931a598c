//! Shared data and queues.
use crate::{
    host::{LogLevel, Status},
    memory::{Call, Guest, give, view, with_scratch},
    shared::Stored,
};

pub(super) fn get(guest: &mut Guest<'_>, p: u32, l: u32, pp: u32, lp: u32, cas_out: u32) -> Call {
    with_scratch(guest, |guest, value| {
        let view = view(guest)?;
        let cas = view.host.vm.get(view.bytes(p, l)?, value).ok_or(Status::NotFound)?;
        give(guest, value, pp, lp)?;
        Ok(crate::memory::view(guest)?.put_u32(cas_out, cas)?)
    })
}

pub(super) fn set(guest: &mut Guest<'_>, p: u32, l: u32, vp: u32, vl: u32, cas: u32) -> Call {
    let view = view(guest)?;
    match view.host.vm.set(view.bytes(p, l)?, view.bytes(vp, vl)?, cas) {
        Stored::Ok => Ok(()),
        Stored::CasMismatch => Err(Status::CasMismatch.into()),
        // No status fits that every SDK takes; losing it in silence would be worse.
        Stored::TooLarge => {
            view.host.log(LogLevel::Error, b"shared data: a value is larger than all the space for shared data");
            Err(Status::InternalFailure.into())
        }
    }
}

pub(super) fn register_queue(guest: &mut Guest<'_>, p: u32, l: u32, out: u32) -> Call {
    let mut view = view(guest)?;
    let waker = view.host.services().queue_waker();
    let id = view.host.vm.register_queue(view.bytes(p, l)?, waker).ok_or(Status::InternalFailure)?;
    Ok(view.put_u32(out, id)?)
}

/// An empty `vm_id` is the guest's own.
pub(super) fn resolve_queue(guest: &mut Guest<'_>, vp: u32, vl: u32, p: u32, l: u32, out: u32) -> Call {
    let mut view = view(guest)?;
    let vm_id = match view.text(vp, vl)? {
        "" => view.host.vm.id(),
        id => id,
    };
    let id = view.host.shared.resolve_queue(vm_id, view.bytes(p, l)?).ok_or(Status::NotFound)?;
    Ok(view.put_u32(out, id)?)
}

pub(super) fn enqueue(guest: &mut Guest<'_>, queue: u32, p: u32, l: u32) -> Call {
    let view = view(guest)?;
    if view.host.shared.enqueue(queue, view.bytes(p, l)?) { Ok(()) } else { Err(Status::NotFound.into()) }
}

pub(super) fn dequeue(guest: &mut Guest<'_>, queue: u32, pp: u32, lp: u32) -> Call {
    let entry = guest.data().shared.dequeue(queue).ok_or(Status::NotFound)?;
    give(guest, &entry.ok_or(Status::Empty)?, pp, lp)
}
