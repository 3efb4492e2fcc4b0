//! framehop for either architecture, and what each has of its own: calls, and the frames of signals.

use super::cfi::Function;
use super::pages::Pages;
use crate::elf::Registers;
use framehop::aarch64::{CacheAarch64, PtrAuthMask, UnwindRegsAarch64, UnwinderAarch64};
use framehop::x86_64::{CacheX86_64, UnwindRegsX86_64, UnwinderX86_64};
use framehop::{Error, ExplicitModuleSectionInfo, FrameAddress, Module, Unwinder};

/// One step of framehop with its own rule for each function.
pub(super) enum Machine {
    X86_64(Box<UnwinderX86_64<Vec<u8>>>, Box<CacheX86_64>),
    Aarch64(Box<UnwinderAarch64<Vec<u8>>>, Box<CacheAarch64>),
}

/// User addresses of aarch64 have at most 48 bits with 4 KiB pages; above are authentication codes.
const ARM_ADDRESS: u64 = u64::MAX >> 16;

impl Machine {
    pub(super) fn of(registers: Registers) -> Self {
        match registers {
            Registers::X86_64 { .. } => {
                Self::X86_64(Box::new(UnwinderX86_64::new()), Box::new(CacheX86_64::<_>::new()))
            }
            Registers::Aarch64 { .. } => {
                Self::Aarch64(Box::new(UnwinderAarch64::new()), Box::new(CacheAarch64::<_>::new()))
            }
        }
    }

    /// Makes a function known.
    pub(super) fn add(&mut self, function: Function) {
        let Function { code, section, at } = function;
        let info = ExplicitModuleSectionInfo {
            base_svma: code.start,
            eh_frame_svma: Some(at..at.saturating_add(section.len() as u64)),
            eh_frame: Some(section),
            ..ExplicitModuleSectionInfo::default()
        };
        let module = Module::new(String::new(), code.clone(), code.start, info);
        match self {
            Self::X86_64(unwinder, _) => unwinder.add_module(module),
            Self::Aarch64(unwinder, _) => unwinder.add_module(module),
        }
    }

    /// The registers of the caller of a frame, `None` at the end of the stack.
    pub(super) fn step(
        &mut self,
        registers: Registers,
        is_return: bool,
        pages: &mut Pages<'_>,
    ) -> Result<Option<Registers>, Error> {
        let mut read = |address| pages.word(address).ok_or(());
        let counter = registers.counter();
        let address = match FrameAddress::from_return_address(counter).filter(|_| is_return) {
            Some(address) => address,
            None => FrameAddress::from_instruction_pointer(counter),
        };
        match (self, registers) {
            (Self::X86_64(unwinder, cache), Registers::X86_64 { ip, sp, bp }) => {
                let mut now = UnwindRegsX86_64::new(ip, sp, bp);
                let next = unwinder.unwind_frame(address, &mut now, cache, &mut read)?;
                Ok(next.map(|ip| Registers::X86_64 { ip, sp: now.sp(), bp: now.bp() }))
            }
            (Self::Aarch64(unwinder, cache), Registers::Aarch64 { sp, fp, lr, .. }) => {
                let mask = PtrAuthMask::from_max_known_address(ARM_ADDRESS);
                let mut now = UnwindRegsAarch64::new_with_ptr_auth_mask(mask, lr, sp, fp);
                let next = unwinder.unwind_frame(address, &mut now, cache, &mut read)?;
                Ok(next.map(|pc| Registers::Aarch64 { pc, sp: now.sp(), fp: now.fp(), lr: now.lr() }))
            }
            _ => Ok(None),
        }
    }
}

/// What a signal interrupted, where `registers` are those of the kernel's trampoline behind a handler.
pub(super) fn interrupted(registers: Registers, pages: &mut Pages<'_>) -> Option<Registers> {
    match registers {
        Registers::X86_64 { ip, sp, .. } => {
            // mov $15,%rax (or %eax); syscall: rt_sigreturn. The handler's return has left the stack pointer at the struct
            // ucontext, whose general registers begin at 40: r8 to r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip
            // (arch/x86/include/uapi/asm/sigcontext.h).
            const LONG: [u8; 9] = [0x48, 0xc7, 0xc0, 15, 0, 0, 0, 0x0f, 0x05];
            const SHORT: [u8; 7] = [0xb8, 15, 0, 0, 0, 0x0f, 0x05];
            let code = pages.read(ip, LONG.len())?;
            if code != LONG && !code.starts_with(&SHORT) {
                return None;
            }
            let mut register = |index: u64| pages.word(sp.checked_add(40 + index * 8)?);
            Some(Registers::X86_64 { bp: register(10)?, sp: register(15)?, ip: register(16)? })
        }
        Registers::Aarch64 { pc, sp, .. } => {
            // mov x8,#139; svc #0. The stack pointer is at the struct rt_sigframe: 128 bytes of siginfo, then the ucontext with
            // its struct sigcontext at 176: fault_address, x0 to x30, sp, pc (arch/arm64/include/uapi/asm/sigcontext.h).
            if pages.half(pc)? != 0xd280_1168 || pages.half(pc.checked_add(4)?)? != 0xd400_0001 {
                return None;
            }
            let mut register = |index: u64| pages.word(sp.checked_add(128 + 176 + 8 + index * 8)?);
            Some(Registers::Aarch64 { fp: register(29)?, lr: register(30)?, sp: register(31)?, pc: register(32)? })
        }
    }
}

/// Whether a call instruction ends at `address`.
pub(super) fn follows_call(registers: Registers, address: u64, pages: &mut Pages<'_>) -> bool {
    let Some(code) = address.checked_sub(8).and_then(|at| pages.read(at, 8)) else { return false };
    match registers {
        Registers::X86_64 { .. } => {
            // call rel32; call r/m64 (0xff /2) with its ModRM byte, and what that asks for behind it (Intel SDM, volume 2).
            let indirect = |length: usize| {
                let (opcode, modrm) = (code[8 - length], code[9 - length]);
                let (mode, rm) = (modrm >> 6, modrm & 7);
                let sib = usize::from(mode != 3 && rm == 4);
                let displacement = match mode {
                    0 if rm == 5 => 4,
                    0 if sib == 1 && code.get(10 - length).is_some_and(|sib| sib & 7 == 5) => 4,
                    1 => 1,
                    2 => 4,
                    _ => 0,
                };
                opcode == 0xff && (modrm >> 3) & 7 == 2 && length == 2 + sib + displacement
            };
            code[3] == 0xe8 || [2, 3, 4, 6, 7].into_iter().any(indirect)
        }
        Registers::Aarch64 { .. } => {
            let word = u32::from_le_bytes([code[4], code[5], code[6], code[7]]);
            // bl; blr, and blraa and its kin.
            word & 0xfc00_0000 == 0x9400_0000 || word & 0xfeff_f000 == 0xd63f_0000
        }
    }
}
