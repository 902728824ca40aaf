//! Raw bindings to librpma 1.2, and to the few functions of libibverbs that finding a device takes.
//!
//! Both libraries are loaded when they are asked for and not linked, so that one binary starts everywhere and can say
//! exactly what is missing where RDMA cannot be used: [`Librpma::load`] and [`Ibverbs::load`]. The `ibv_*` types are
//! those of `rdma-sys`, whose functions are *not* used: they would make libibverbs a condition for starting.
//!
//! Nothing here is safe and nothing is explained: what the functions do and demand is in librpma's manual (`man 7
//! librpma`), what Farkeep makes of them in `farkeep_fabric::rdma`. `bindings.rs` is written by the script
//! `regenerate` beside it.

#[expect(
    missing_debug_implementations,
    non_camel_case_types,
    clippy::allow_attributes,
    clippy::missing_safety_doc,
    clippy::too_many_arguments,
    clippy::undocumented_unsafe_blocks,
    reason = "generated from a C header"
)]
mod bindings;
mod load;
mod verbs;

pub use bindings::*;
pub use load::LoadError;
pub use rdma_sys::{ibv_context, ibv_device, ibv_port_attr, ibv_port_state, ibv_wc, ibv_wc_status};
pub use verbs::Ibverbs;
