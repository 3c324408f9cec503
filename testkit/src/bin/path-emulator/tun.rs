//! A TUN device: a network interface whose packets are read and written on a file.
//!
//! It owns the one system call of this crate that has no safe form. The interface lives as long as the file.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::OpenOptionsExt as _,
    },
};

use rustix::ioctl;

/// `_IOW('T', 202, int)` of `linux/if_tun.h`; the number says `int`, the kernel takes a `struct ifreq`.
const TUNSETIFF: ioctl::Opcode = 0x4004_54ca;
const IFF_TUN: u16 = 0x0001;
/// Without four bytes of flags and protocol before each packet.
const IFF_NO_PI: u16 = 0x1000;
const NAME_BYTES: usize = 16;

/// `struct ifreq` as TUNSETIFF uses it: the name, the flags, and the rest of a union that it does not look at.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; NAME_BYTES],
    flags: u16,
    rest: [u8; 22],
}

/// The file of one device.
#[derive(Debug)]
pub(crate) struct Tun {
    file: File,
}

impl Tun {
    /// Makes the device `name` in this process's namespace, from where it can be moved. Reads never wait.
    pub(crate) fn create(name: &str) -> io::Result<Self> {
        let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).map_err(io::Error::other)?;
        let file =
            OpenOptions::new().read(true).write(true).custom_flags(nonblocking).open("/dev/net/tun")?;
        let mut request =
            InterfaceRequest { name: [0; NAME_BYTES], flags: IFF_TUN | IFF_NO_PI, rest: [0; 22] };
        // The last byte stays zero: the kernel reads a C string.
        let bytes = name.as_bytes();
        if bytes.len() >= NAME_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the name of an interface is too long"));
        }
        request.name[..bytes.len()].copy_from_slice(bytes);
        // SAFETY: TUNSETIFF reads a `struct ifreq` and writes it back, and nothing else; `InterfaceRequest` has its
        // layout and its full 40 bytes, and is borrowed mutably for the call.
        unsafe {
            let updater = ioctl::Updater::<TUNSETIFF, InterfaceRequest>::new(&mut request);
            ioctl::ioctl(&file, updater)?;
        }
        Ok(Self { file })
    }

    /// One packet, or `WouldBlock`.
    pub(crate) fn receive(&self, into: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(into)
    }

    /// Gives one packet to the kernel.
    pub(crate) fn send(&self, packet: &[u8]) -> io::Result<usize> {
        (&self.file).write(packet)
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
