//! The calls of librpma that it takes, and no more.
//!
//! Nothing is freed: the process ends when it is done. Nobody else uses these objects, and each is used by one thread.

use std::ffi::{CString, c_int, c_void};
use std::fs::File;
use std::ptr;

use anyhow::{Context, bail, ensure};
use rpma_sys::{
    Librpma, RPMA_CONN_ESTABLISHED, RPMA_CONN_UNDEFINED, RPMA_E_NO_COMPLETION, RPMA_F_COMPLETION_ALWAYS,
    RPMA_F_COMPLETION_ON_ERROR, RPMA_FLUSH_TYPE_PERSISTENT, RPMA_MR_USAGE_FLUSH_TYPE_PERSISTENT,
    RPMA_MR_USAGE_WRITE_DST, RPMA_MR_USAGE_WRITE_SRC, RPMA_UTIL_IBV_CONTEXT_LOCAL,
    RPMA_UTIL_IBV_CONTEXT_REMOTE, ibv_wc, rpma_conn, rpma_conn_cfg, rpma_conn_private_data, rpma_cq,
    rpma_mr_local, rpma_mr_remote, rpma_peer,
};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous};

/// Operations that may be posted; twice the deepest throughput run.
const QUEUE_LEN: u32 = 256;
/// How long to wait for the server.
const TIMEOUT_MS: c_int = 5000;

/// Memory to register. Never unmapped.
pub struct Memory {
    base: *mut c_void,
    len: usize,
}

impl Memory {
    /// The first `len` bytes of a file or a devdax device.
    pub fn map(file: &File, len: usize) -> anyhow::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe {
            mmap(ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, file, 0)
        };
        Ok(Self { base: base.context("cannot map the memory")?, len })
    }

    fn anonymous(len: usize) -> anyhow::Result<Self> {
        let flags = MapFlags::PRIVATE | MapFlags::POPULATE;
        // SAFETY: as above.
        let base = unsafe { mmap_anonymous(ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, flags) };
        Ok(Self { base: base?, len })
    }
}

fn check(rpma: &Librpma, call: &str, answer: c_int) -> anyhow::Result<()> {
    if answer == 0 {
        return Ok(());
    }
    let errno = std::io::Error::last_os_error();
    // SAFETY: a constant string for any number.
    let text = unsafe { std::ffi::CStr::from_ptr(rpma.rpma_err_2str(answer)) };
    bail!("{call}: {} ({errno})", text.to_string_lossy())
}

fn peer(rpma: &Librpma, address: &str, kind: u32) -> anyhow::Result<*mut rpma_peer> {
    let address = CString::new(address)?;
    let (mut context, mut peer) = (ptr::null_mut(), ptr::null_mut());
    // SAFETY: a string, and places for the answers.
    unsafe {
        let answer = rpma.rpma_utils_get_ibv_context(address.as_ptr(), kind, &raw mut context);
        check(rpma, "rpma_utils_get_ibv_context", answer)?;
        check(rpma, "rpma_peer_new", rpma.rpma_peer_new(context, &raw mut peer))?;
    }
    Ok(peer)
}

fn register(
    rpma: &Librpma,
    peer: *mut rpma_peer,
    memory: &Memory,
    usage: u32,
) -> anyhow::Result<*mut rpma_mr_local> {
    let mut mr = ptr::null_mut();
    // SAFETY: the memory stays mapped until the process ends.
    let answer = unsafe { rpma.rpma_mr_reg(peer, memory.base, memory.len, usage as c_int, &raw mut mr) };
    check(rpma, "rpma_mr_reg", answer)?;
    Ok(mr)
}

fn configuration(rpma: &Librpma) -> anyhow::Result<*mut rpma_conn_cfg> {
    let mut cfg = ptr::null_mut();
    // SAFETY: a place for the answer, and then the new object.
    unsafe {
        check(rpma, "rpma_conn_cfg_new", rpma.rpma_conn_cfg_new(&raw mut cfg))?;
        check(rpma, "rpma_conn_cfg_set_sq_size", rpma.rpma_conn_cfg_set_sq_size(cfg, QUEUE_LEN))?;
        check(rpma, "rpma_conn_cfg_set_cq_size", rpma.rpma_conn_cfg_set_cq_size(cfg, QUEUE_LEN))?;
        check(rpma, "rpma_conn_cfg_set_timeout", rpma.rpma_conn_cfg_set_timeout(cfg, TIMEOUT_MS))?;
    }
    Ok(cfg)
}

fn next_event(rpma: &Librpma, conn: *mut rpma_conn) -> anyhow::Result<c_int> {
    let mut event = RPMA_CONN_UNDEFINED;
    // SAFETY: the connection is alive, and the answer has a place.
    check(rpma, "rpma_conn_next_event", unsafe { rpma.rpma_conn_next_event(conn, &raw mut event) })?;
    Ok(event)
}

/// The end that is written to.
pub struct Server {
    rpma: Librpma,
    ep: *mut rpma_sys::rpma_ep,
    mr: *mut rpma_mr_local,
}

impl Server {
    /// Registers the memory and listens.
    pub fn listen(address: &str, port: u16, memory: Memory) -> anyhow::Result<Self> {
        let rpma = Librpma::load()?;
        let peer = peer(&rpma, address, RPMA_UTIL_IBV_CONTEXT_LOCAL)?;
        let mr =
            register(&rpma, peer, &memory, RPMA_MR_USAGE_WRITE_DST | RPMA_MR_USAGE_FLUSH_TYPE_PERSISTENT)?;
        let (address, port) = (CString::new(address)?, CString::new(port.to_string())?);
        let mut ep = ptr::null_mut();
        // SAFETY: strings, the peer just made, and a place for the answer.
        let answer = unsafe { rpma.rpma_ep_listen(peer, address.as_ptr(), port.as_ptr(), &raw mut ep) };
        check(&rpma, "rpma_ep_listen", answer)?;
        Ok(Self { rpma, ep, mr })
    }

    /// Lets a client in, tells it where to write, and waits until it leaves.
    pub fn serve_one(&self) -> anyhow::Result<()> {
        let rpma = &self.rpma;
        let mut descriptor = [0u8; 64];
        let (mut len, mut request, mut conn) = (0, ptr::null_mut(), ptr::null_mut());
        // SAFETY: objects that are alive, places for the answers, and a buffer that is as long as it is said to be.
        unsafe {
            let answer = rpma.rpma_mr_get_descriptor_size(self.mr, &raw mut len);
            check(rpma, "rpma_mr_get_descriptor_size", answer)?;
            ensure!(len < descriptor.len(), "a descriptor of {len} bytes");
            // The private data arrives with zeroes behind it, so its length goes first.
            descriptor[0] = len as u8;
            let answer = rpma.rpma_mr_get_descriptor(self.mr, descriptor[1..].as_mut_ptr().cast());
            check(rpma, "rpma_mr_get_descriptor", answer)?;
            let cfg = configuration(rpma)?;
            let answer = rpma.rpma_ep_next_conn_req(self.ep, cfg, &raw mut request);
            check(rpma, "rpma_ep_next_conn_req", answer)?;
            let data = rpma_conn_private_data { ptr: descriptor.as_mut_ptr().cast(), len: len as u8 + 1 };
            let answer = rpma.rpma_conn_req_connect(&raw mut request, &raw const data, &raw mut conn);
            check(rpma, "rpma_conn_req_connect", answer)?;
        }
        ensure!(next_event(rpma, conn)? == RPMA_CONN_ESTABLISHED, "the client did not connect");
        next_event(rpma, conn)?;
        Ok(())
    }
}

/// The end that writes.
pub struct Client {
    rpma: Librpma,
    conn: *mut rpma_conn,
    cq: *mut rpma_cq,
    source: *mut rpma_mr_local,
    target: *mut rpma_mr_remote,
    target_len: usize,
}

impl Client {
    /// Connects, with a source of `bytes` bytes.
    pub fn connect(address: &str, port: u16, bytes: usize) -> anyhow::Result<Self> {
        let rpma = Librpma::load()?;
        let peer = peer(&rpma, address, RPMA_UTIL_IBV_CONTEXT_REMOTE)?;
        let memory = Memory::anonymous(bytes.next_multiple_of(4096))?;
        let source = register(&rpma, peer, &memory, RPMA_MR_USAGE_WRITE_SRC)?;
        let cfg = configuration(&rpma)?;
        let (address, port) = (CString::new(address)?, CString::new(port.to_string())?);
        let (mut request, mut conn, mut cq) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
        // SAFETY: strings, objects that are alive, and places for the answers.
        unsafe {
            let answer = rpma.rpma_conn_req_new(peer, address.as_ptr(), port.as_ptr(), cfg, &raw mut request);
            check(&rpma, "rpma_conn_req_new", answer)?;
            let answer = rpma.rpma_conn_req_connect(&raw mut request, ptr::null(), &raw mut conn);
            check(&rpma, "rpma_conn_req_connect", answer)?;
        }
        ensure!(next_event(&rpma, conn)? == RPMA_CONN_ESTABLISHED, "the server did not accept");
        let mut data = rpma_conn_private_data { ptr: ptr::null_mut(), len: 0 };
        let (mut target, mut target_len, mut config) = (ptr::null_mut(), 0, ptr::null_mut());
        // SAFETY: as above; the private data stays as long as the connection, and was written by `serve_one`.
        unsafe {
            check(&rpma, "rpma_conn_get_private_data", rpma.rpma_conn_get_private_data(conn, &raw mut data))?;
            ensure!(!data.ptr.is_null() && data.len > 1, "the server says nothing");
            let len = usize::from(*data.ptr.cast::<u8>());
            let descriptor = data.ptr.cast::<u8>().add(1).cast();
            let answer = rpma.rpma_mr_remote_from_descriptor(descriptor, len, &raw mut target);
            check(&rpma, "rpma_mr_remote_from_descriptor", answer)?;
            check(
                &rpma,
                "rpma_mr_remote_get_size",
                rpma.rpma_mr_remote_get_size(target, &raw mut target_len),
            )?;
            check(&rpma, "rpma_conn_get_cq", rpma.rpma_conn_get_cq(conn, &raw mut cq))?;
            check(&rpma, "rpma_peer_cfg_new", rpma.rpma_peer_cfg_new(&raw mut config))?;
            let answer = rpma.rpma_peer_cfg_set_direct_write_to_pmem(config, true);
            check(&rpma, "rpma_peer_cfg_set_direct_write_to_pmem", answer)?;
            let answer = rpma.rpma_conn_apply_remote_peer_cfg(conn, config);
            check(&rpma, "rpma_conn_apply_remote_peer_cfg", answer)?;
        }
        Ok(Self { rpma, conn, cq, source, target, target_len })
    }

    /// Where the `i`th write goes: one behind the other, round and round.
    pub fn place(&self, i: u32, bytes: usize) -> usize {
        // A flush reads eight bytes at the place it is for.
        let places = (self.target_len - 8) / bytes;
        i as usize % places * bytes
    }

    /// Posts a write and a persistent flush of it; the flush completes.
    pub fn write_and_flush(&mut self, at: usize, bytes: usize) -> anyhow::Result<()> {
        let rpma = &self.rpma;
        // SAFETY: all objects are alive, and nobody changes the source.
        unsafe {
            let flags = RPMA_F_COMPLETION_ON_ERROR as c_int;
            let answer =
                rpma.rpma_write(self.conn, self.target, at, self.source, 0, bytes, flags, ptr::null());
            check(rpma, "rpma_write", answer)?;
            let flags = RPMA_F_COMPLETION_ALWAYS as c_int;
            let kind = RPMA_FLUSH_TYPE_PERSISTENT;
            let answer = rpma.rpma_flush(self.conn, self.target, at, bytes, kind, flags, ptr::null());
            check(rpma, "rpma_flush", answer)
        }
    }

    /// Waits for `count` completions; says how many came.
    pub fn complete(&mut self, count: u32, sleep: bool) -> anyhow::Result<u32> {
        let rpma = &self.rpma;
        let mut found = 0;
        while found < count {
            // SAFETY: all bytes zero is a value of this struct of numbers.
            let mut wc: ibv_wc = unsafe { std::mem::zeroed() };
            // SAFETY: the queue is alive, and there is a place for one completion.
            let answer = unsafe { rpma.rpma_cq_get_wc(self.cq, 1, &raw mut wc, ptr::null_mut()) };
            if answer == RPMA_E_NO_COMPLETION {
                if sleep {
                    // SAFETY: the queue is alive.
                    let answer = unsafe { rpma.rpma_cq_wait(self.cq) };
                    check(rpma, "rpma_cq_wait", answer)?;
                }
                continue;
            }
            check(rpma, "rpma_cq_get_wc", answer)?;
            ensure!(wc.status == 0, "an operation failed with status {}", wc.status);
            found += 1;
        }
        Ok(found)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // SAFETY: alive. The server ends with the connection.
        unsafe { self.rpma.rpma_conn_disconnect(self.conn) };
    }
}
