//! Why RDMA cannot be used, in words that say what to do about it.

use std::ffi::{CStr, c_int};
use std::io;
use std::net::{IpAddr, SocketAddr};

use rpma_sys::{LoadError, RPMA_E_NOMEM, RPMA_E_PROVIDER};

use super::device::Libraries;

/// A call of librpma that failed.
#[derive(Debug, thiserror::Error)]
#[error("{call}: {text}{}", errno.as_ref().map_or_else(String::new, |error| format!(": {error}")))]
pub struct CallError {
    /// The function.
    pub call: &'static str,
    /// What librpma says.
    pub text: String,
    /// What the kernel or libibverbs says, where librpma says that it lies there.
    pub errno: Option<io::Error>,
}

impl CallError {
    /// Whether the kernel's error is this one.
    pub(super) fn is_errno(&self, errno: rustix::io::Errno) -> bool {
        self.errno.as_ref().and_then(io::Error::raw_os_error) == Some(errno.raw_os_error())
    }
}

/// Turns librpma's answer into a result. To be called before anything else can change `errno`.
pub(super) fn check(libraries: &Libraries, call: &'static str, answer: c_int) -> Result<(), CallError> {
    if answer == 0 {
        return Ok(());
    }
    let errno = io::Error::last_os_error();
    // SAFETY: librpma takes any number and answers with a string that lives as long as the library, which is never
    // unloaded.
    let text = unsafe { CStr::from_ptr(libraries.rpma.rpma_err_2str(answer)) };
    Err(CallError {
        call,
        text: text.to_string_lossy().into_owned(),
        errno: matches!(answer, RPMA_E_PROVIDER | RPMA_E_NOMEM).then_some(errno),
    })
}

/// Why RDMA cannot be used here. The text is one line and meant for the operator.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unusable {
    /// A library is missing, or is another version.
    #[error("{0} (Debian: {package})", package = package_of(.0))]
    Library(#[from] LoadError),
    /// There is no RDMA device.
    #[error("this host has no RDMA device")]
    NoDevice,
    /// There are devices, but not the one that is wanted.
    #[error("there is no RDMA device {wanted}; there is {}", found.join(", "))]
    NoSuchDevice {
        /// The directive `rdma-device`.
        wanted: String,
        /// What there is.
        found: Vec<String>,
    },
    /// The device has no IP address, and connections are made between addresses.
    #[error("the RDMA device {device} has no IP address that could be listened on; rdma-bind can name one")]
    NoAddress {
        /// The device.
        device: String,
    },
    /// An address that is no RDMA device's.
    #[error("no RDMA device has the address {address} ({source})")]
    AddressWithoutDevice {
        /// The address.
        address: IpAddr,
        /// What librpma says.
        #[source]
        source: CallError,
    },
    /// An address that is another RDMA device's.
    #[error("the address {address} is that of the RDMA device {found}, not of {wanted}")]
    AnotherDevice {
        /// The directive `rdma-bind`.
        address: IpAddr,
        /// The directive `rdma-device`.
        wanted: String,
        /// The device that has the address.
        found: String,
    },
    /// The device has lost its link.
    #[error("the port of the RDMA device {device} is down")]
    PortDown {
        /// The device.
        device: String,
    },
    /// Too little memory may be pinned.
    #[error(
        "{what} cannot be registered: that pins {needed} bytes, and with the {pinned} pinned already this is above the memlock limit of \
         {limit} bytes (ulimit -l unlimited, or LimitMEMLOCK=infinity in the service)"
    )]
    Memlock {
        /// What was to be registered.
        what: &'static str,
        /// Its length.
        needed: u64,
        /// What this process has pinned.
        pinned: u64,
        /// The limit.
        limit: u64,
    },
    /// Memory of a file on fsdax, which only a device with on-demand paging can register.
    #[error(
        "{what} cannot be registered: its file lies on fsdax, and the RDMA device {device} has no on-demand paging (ODP); put the log on a \
         devdax device"
    )]
    FsDax {
        /// What was to be registered.
        what: &'static str,
        /// The device.
        device: String,
    },
    /// The memory cannot be registered for another reason.
    #[error("{what} ({len} bytes) cannot be registered: {source}")]
    NotRegistrable {
        /// What was to be registered.
        what: &'static str,
        /// Its length.
        len: u64,
        /// What librpma says.
        #[source]
        source: CallError,
    },
    /// The address or port cannot be listened on.
    #[error("cannot listen for RDMA connections at {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What librpma says.
        #[source]
        source: CallError,
    },
    /// Another call failed.
    #[error("RDMA: {0}")]
    Call(#[from] CallError),
    /// A call of the operating system failed.
    #[error("RDMA: {0}")]
    System(#[from] io::Error),
}

fn package_of(error: &LoadError) -> &'static str {
    let (LoadError::Library { library, .. } | LoadError::Symbol { library, .. }) = error else { return "?" };
    if library.contains("rpma") { "librpma0" } else { "libibverbs1 and ibverbs-providers" }
}
