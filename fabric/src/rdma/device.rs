//! The network card, and the libraries that drive it.
//!
//! librpma thinks in IP addresses: a device is what has one. [`probe`] goes the other way, from the device's name (or from
//! none) to its first address, which sysfs shows beside the device's GIDs.
//!
//! A [`Device`] is one protection domain, in which the leader's log, the follower's window and everybody's small
//! buffers are registered. librpma promises nothing about registrations and connection requests that are made by
//! several threads at once, so each of the two kinds takes turns here; what a connection does once it is there needs no
//! lock, because a connection has one poster.

use std::ffi::{CStr, CString, c_int};
use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rpma_sys::{
    Ibverbs, Librpma, LoadError, RPMA_LOG_DISABLED, RPMA_LOG_THRESHOLD, RPMA_UTIL_IBV_CONTEXT_LOCAL,
    ibv_context, ibv_port_attr, ibv_port_state::IBV_PORT_ACTIVE, rpma_peer,
};

use super::error::{CallError, Unusable, check};

/// The port of a card that is used; one with several shows up as one device for each nowadays.
const PORT: u8 = 1;
/// No write is longer, whatever the card would take: a turn of the worker should not wait for one to be built.
const MAX_WRITE_LEN: u32 = 1 << 20;

/// librpma and libibverbs, loaded.
pub(super) struct Libraries {
    pub(super) rpma: Librpma,
    pub(super) verbs: Ibverbs,
}

impl Libraries {
    /// Loads both, once per process. They stay: their threads and callbacks make unloading unsound.
    fn get() -> Result<&'static Self, LoadError> {
        static LOADED: OnceLock<Libraries> = OnceLock::new();
        if let Some(loaded) = LOADED.get() {
            return Ok(loaded);
        }
        let loaded = Self { verbs: Ibverbs::load()?, rpma: Librpma::load()? };
        // SAFETY: both constants are of the type that the function takes. Its log goes to syslog and would overwrite
        // `errno`; what it says is in our errors.
        unsafe { loaded.rpma.rpma_log_set_threshold(RPMA_LOG_THRESHOLD, RPMA_LOG_DISABLED) };
        Ok(LOADED.get_or_init(|| loaded))
    }

    /// What a completion's status means.
    pub(super) fn status(&self, status: u32) -> String {
        // SAFETY: libibverbs takes any number and answers with a constant string.
        let text = unsafe { CStr::from_ptr((self.verbs.ibv_wc_status_str)(status)) };
        text.to_string_lossy().into_owned()
    }

    fn device_names(&self) -> Vec<String> {
        let mut count: c_int = 0;
        // SAFETY: the list is an array of `count` pointers until it is freed below.
        let list = unsafe { (self.verbs.ibv_get_device_list)(&raw mut count) };
        if list.is_null() {
            return Vec::new();
        }
        let names = (0..usize::try_from(count).unwrap_or(0)).map(|i| {
            // SAFETY: `i` is below the list's length, and a device's name is a string in it.
            let name = unsafe { CStr::from_ptr((self.verbs.ibv_get_device_name)(*list.add(i))) };
            name.to_string_lossy().into_owned()
        });
        let names = names.collect();
        // SAFETY: the list came from `ibv_get_device_list`, and nothing of it is kept.
        unsafe { (self.verbs.ibv_free_device_list)(list) };
        names
    }
}

struct Inner {
    libraries: &'static Libraries,
    context: NonNull<ibv_context>,
    peer: NonNull<rpma_peer>,
    name: String,
    address: IpAddr,
    max_write_len: u32,
    registering: Mutex<()>,
    connecting: Mutex<()>,
}

// SAFETY: the context belongs to librdmacm and stays until the process ends; the peer is only handed to calls that
// take turns under one of the two locks.
unsafe impl Send for Inner {}
// SAFETY: as for Send.
unsafe impl Sync for Inner {}

impl Drop for Inner {
    fn drop(&mut self) {
        let mut peer = self.peer.as_ptr();
        // SAFETY: whoever registered memory or made a connection in this domain owned a share of `self`, so nothing
        // of the kind is left.
        unsafe { self.libraries.rpma.rpma_peer_delete(&raw mut peer) };
    }
}

/// A network card that can do RDMA. Clones share it.
#[derive(Clone)]
pub struct Device(Arc<Inner>);

impl Device {
    /// The device's name, as in `/sys/class/infiniband`.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The address by which it is reached, and known to librpma.
    pub fn address(&self) -> IpAddr {
        self.0.address
    }

    pub(super) fn libraries(&self) -> &'static Libraries {
        self.0.libraries
    }

    pub(super) fn rpma(&self) -> &'static Librpma {
        &self.0.libraries.rpma
    }

    pub(super) fn peer(&self) -> *mut rpma_peer {
        self.0.peer.as_ptr()
    }

    /// The longest write that may be posted.
    pub(super) fn max_write_len(&self) -> u32 {
        self.0.max_write_len
    }

    /// Whether the card's port is up, as far as the card says. What is sent through one that is down fails; on soft-RoCE a message
    /// of the connection manager that fails so leaves it deaf for good.
    pub(super) fn is_up(&self) -> bool {
        query_port(self.0.libraries, self.0.context).is_none_or(|port| port.state == IBV_PORT_ACTIVE)
    }

    pub(super) fn check(&self, call: &'static str, answer: c_int) -> Result<(), CallError> {
        check(self.0.libraries, call, answer)
    }

    /// Whether the card can page in what it needs, instead of having it pinned.
    pub(super) fn pages_on_demand(&self) -> bool {
        let mut capable = 0;
        // SAFETY: the context is open, and the answer has a place.
        let answer = unsafe {
            self.rpma().rpma_utils_ibv_context_is_odp_capable(self.0.context.as_ptr(), &raw mut capable)
        };
        answer == 0 && capable != 0
    }

    /// Waits for its turn to register or deregister memory.
    pub(super) fn registering(&self) -> MutexGuard<'_, ()> {
        self.0.registering.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for its turn to make, accept or reject a connection request.
    pub(super) fn connecting(&self) -> MutexGuard<'_, ()> {
        self.0.connecting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({} at {})", self.0.name, self.0.address)
    }
}

/// Finds the device to use: the one named `wanted` (the directive `rdma-device`) or any; at the address `bind` (the directive
/// `rdma-bind`) or at its first one. Waits for nothing.
///
/// # Errors
/// [`Unusable`] says what is missing.
pub fn probe(wanted: Option<&str>, bind: Option<IpAddr>) -> Result<Device, Unusable> {
    let libraries = Libraries::get()?;
    let found = libraries.device_names();
    if found.is_empty() {
        return Err(Unusable::NoDevice);
    }
    if let Some(wanted) = wanted
        && !found.iter().any(|name| name == wanted)
    {
        return Err(Unusable::NoSuchDevice { wanted: wanted.to_owned(), found });
    }
    let address = match (bind, wanted) {
        (Some(address), _) => address,
        (None, Some(wanted)) => first_address(Path::new("/sys/class/infiniband"), wanted)
            .ok_or_else(|| Unusable::NoAddress { device: wanted.to_owned() })?,
        (None, None) => found
            .iter()
            .find_map(|name| first_address(Path::new("/sys/class/infiniband"), name))
            .ok_or_else(|| Unusable::NoAddress { device: found[0].clone() })?,
    };
    let context = open(libraries, address)?;
    // SAFETY: the context is open and has a device, whose name is a string in it.
    let name = unsafe { CStr::from_ptr((libraries.verbs.ibv_get_device_name)(context.as_ref().device)) };
    let name = name.to_string_lossy().into_owned();
    if let Some(wanted) = wanted
        && name != wanted
    {
        return Err(Unusable::AnotherDevice { address, wanted: wanted.to_owned(), found: name });
    }
    let mut peer = ptr::null_mut();
    // SAFETY: the context is open, and the answer has a place.
    let answer = unsafe { libraries.rpma.rpma_peer_new(context.as_ptr(), &raw mut peer) };
    check(libraries, "rpma_peer_new", answer)?;
    Ok(Device(Arc::new(Inner {
        libraries,
        context,
        peer: NonNull::new(peer).expect("librpma answered that there is one"),
        name,
        address,
        max_write_len: max_message_len(libraries, context).min(MAX_WRITE_LEN),
        registering: Mutex::new(()),
        connecting: Mutex::new(()),
    })))
}

/// The context of the device with this address; librdmacm keeps one for each until the process ends.
fn open(libraries: &'static Libraries, address: IpAddr) -> Result<NonNull<ibv_context>, Unusable> {
    let text = CString::new(address.to_string()).expect("an address has no zero byte");
    let mut context = ptr::null_mut();
    // SAFETY: the address is a string, and the answer has a place.
    let answer = unsafe {
        libraries.rpma.rpma_utils_get_ibv_context(
            text.as_ptr(),
            RPMA_UTIL_IBV_CONTEXT_LOCAL,
            &raw mut context,
        )
    };
    check(libraries, "rpma_utils_get_ibv_context", answer)
        .map_err(|source| Unusable::AddressWithoutDevice { address, source })?;
    Ok(NonNull::new(context).expect("librpma answered that there is one"))
}

fn query_port(libraries: &Libraries, context: NonNull<ibv_context>) -> Option<ibv_port_attr> {
    // SAFETY: all bytes zero is a value of this struct of numbers.
    let mut port: ibv_port_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the context is open, and the answer has a place that is as long as the newest version of the struct.
    let answer = unsafe { (libraries.verbs.ibv_query_port)(context.as_ptr(), PORT, &raw mut port) };
    (answer == 0).then_some(port)
}

fn max_message_len(libraries: &Libraries, context: NonNull<ibv_context>) -> u32 {
    // Every card takes a page; none is known that would not answer.
    query_port(libraries, context).map_or(4096, |port| port.max_msg_sz.max(4096))
}

/// The device's first address that connections can be made to: IPv4 if it has one.
fn first_address(sysfs: &Path, device: &str) -> Option<IpAddr> {
    let gids = sysfs.join(device).join("ports").join(PORT.to_string()).join("gids");
    let mut found = Vec::new();
    for entry in fs::read_dir(gids).ok()?.flatten() {
        let number: u32 = entry.file_name().to_str()?.parse().ok()?;
        // A slot of the table that is not in use reads as zeroes, or fails.
        let Ok(text) = fs::read_to_string(entry.path()) else { continue };
        let Ok(gid) = text.trim().parse::<Ipv6Addr>() else { continue };
        let address = gid.to_ipv4_mapped().map_or(IpAddr::V6(gid), IpAddr::V4);
        let usable = match address {
            IpAddr::V4(_) => true,
            // A link-local address means nothing without an interface, which librpma has no way to be told.
            IpAddr::V6(gid) => !gid.is_unspecified() && !gid.is_unicast_link_local(),
        };
        if usable {
            found.push((address.is_ipv6(), number, address));
        }
    }
    found.into_iter().min().map(|(_, _, address)| address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_devices_first_ipv4_address_is_taken_and_link_local_ones_never() {
        let sysfs = tempfile::tempdir().unwrap();
        let gids = sysfs.path().join("rxe0/ports/1/gids");
        fs::create_dir_all(&gids).unwrap();
        let put =
            |number: u32, gid: &str| fs::write(gids.join(number.to_string()), format!("{gid}\n")).unwrap();
        put(0, "fe80:0000:0000:0000:5054:00ff:fefa:000f");
        put(2, "0000:0000:0000:0000:0000:0000:0000:0000");
        assert_eq!(first_address(sysfs.path(), "rxe0"), None);
        put(3, "fec0:0000:0000:0000:5054:00ff:fefa:000f");
        assert_eq!(first_address(sysfs.path(), "rxe0").unwrap().to_string(), "fec0::5054:ff:fefa:f");
        put(5, "0000:0000:0000:0000:0000:ffff:0a00:0210");
        put(4, "0000:0000:0000:0000:0000:ffff:0a00:020f");
        assert_eq!(first_address(sysfs.path(), "rxe0").unwrap().to_string(), "10.0.2.15");
        assert_eq!(first_address(sysfs.path(), "rxe1"), None);
    }
}
