//! Checked builds: the machine is told which memory kernels may touch, and fresh memory is poisoned.

use super::Kind;
use std::ffi::{CString, c_char, c_void};

unsafe extern "C" {
    fn lc_check_register(p: *const c_void, n_bytes: usize, name: *const c_char);
    fn lc_check_unregister(p: *const c_void);
}

/// From here on kernels may touch these bytes, which hold NaN: whoever reads what nobody wrote will notice.
pub(super) fn register(kind: &Kind, address: usize, n_bytes: usize, name: &str) {
    if let Kind::Cpu(_) = kind {
        let name = CString::new(name.replace('\0', " ")).expect("no zero byte is left");
        // SAFETY: the caller has just allocated these bytes and nobody else knows them; the name is copied.
        unsafe {
            std::ptr::write_bytes(address as *mut u8, 0xff, n_bytes);
            lc_check_register(address as *const c_void, n_bytes, name.as_ptr());
        }
    }
}

/// No kernel may touch the buffer that starts here any more.
pub(super) fn unregister(kind: &Kind, address: usize) {
    if let Kind::Cpu(_) = kind {
        // SAFETY: the address is only looked up in the checker's own list; what it points to is not touched.
        unsafe { lc_check_unregister(address as *const c_void) }
    }
}
