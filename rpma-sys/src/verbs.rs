//! The functions of libibverbs that finding a device and naming a failure take.

use libc::{c_char, c_int};
use libloading::{Error, Library};
use rdma_sys::{ibv_context, ibv_device, ibv_port_attr};

/// libibverbs, loaded: pointers to the functions that are used.
#[derive(Debug)]
pub struct Ibverbs {
    /// `struct ibv_device **ibv_get_device_list(int *num_devices)`
    pub ibv_get_device_list: unsafe extern "C" fn(*mut c_int) -> *mut *mut ibv_device,
    /// `void ibv_free_device_list(struct ibv_device **list)`
    pub ibv_free_device_list: unsafe extern "C" fn(*mut *mut ibv_device),
    /// `const char *ibv_get_device_name(struct ibv_device *device)`
    pub ibv_get_device_name: unsafe extern "C" fn(*mut ibv_device) -> *const c_char,
    /// `int ibv_query_port(struct ibv_context *context, uint8_t port_num, struct ibv_port_attr *port_attr)`
    pub ibv_query_port: unsafe extern "C" fn(*mut ibv_context, u8, *mut ibv_port_attr) -> c_int,
    /// `const char *ibv_wc_status_str(enum ibv_wc_status status)`
    pub ibv_wc_status_str: unsafe extern "C" fn(u32) -> *const c_char,
    /// Keeps the functions where they are.
    _library: Library,
}

impl Ibverbs {
    pub(crate) fn from_library(library: Library) -> Result<Self, Error> {
        // SAFETY: the signatures are those of infiniband/verbs.h, whose soname 1 stands for them.
        unsafe {
            Ok(Self {
                ibv_get_device_list: *library.get(b"ibv_get_device_list\0")?,
                ibv_free_device_list: *library.get(b"ibv_free_device_list\0")?,
                ibv_get_device_name: *library.get(b"ibv_get_device_name\0")?,
                ibv_query_port: *library.get(b"ibv_query_port\0")?,
                ibv_wc_status_str: *library.get(b"ibv_wc_status_str\0")?,
                _library: library,
            })
        }
    }
}
