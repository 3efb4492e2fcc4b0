//! What depends on the architecture: unwinding a frame (framehop), recognizing call instructions and signal frames.

use super::cfi::FunctionTable;
use super::i386::{self, CannotUnwind, I386Unwinder};
use super::page_cache::PageCache;
use crate::elf::{I386Registers, Registers};
use framehop::aarch64::{CacheAarch64, PtrAuthMask, UnwindRegsAarch64, UnwinderAarch64};
use framehop::x86_64::{CacheX86_64, UnwindRegsX86_64, UnwinderX86_64};
use framehop::{ExplicitModuleSectionInfo, FrameAddress, Module, Unwinder};

/// An unwinder for one architecture, and the functions that it knows.
pub(super) enum Arch {
    I386(Box<I386Unwinder>),
    X86_64(Box<UnwinderX86_64<Vec<u8>>>, Box<CacheX86_64>),
    Aarch64(Box<UnwinderAarch64<Vec<u8>>>, Box<CacheAarch64>),
}

impl From<framehop::Error> for CannotUnwind {
    fn from(_: framehop::Error) -> Self {
        Self
    }
}

/// User addresses of aarch64 have at most 48 bits with 4 KiB pages; the bits above them hold pointer authentication codes.
const AARCH64_MAX_ADDRESS: u64 = u64::MAX >> 16;

impl Arch {
    /// The architecture that has these registers.
    pub(super) fn from_registers(registers: Registers) -> Self {
        match registers {
            Registers::I386(_) => Self::I386(Box::default()),
            Registers::X86_64 { .. } => {
                Self::X86_64(Box::new(UnwinderX86_64::new()), Box::new(CacheX86_64::<_>::new()))
            }
            Registers::Aarch64 { .. } => {
                Self::Aarch64(Box::new(UnwinderAarch64::new()), Box::new(CacheAarch64::<_>::new()))
            }
        }
    }

    /// Adds a function, so that its frames can be unwound.
    pub(super) fn add_function(&mut self, function: FunctionTable) {
        if let Self::I386(unwinder) = self {
            unwinder.add_function(function);
            return;
        }
        let FunctionTable { code, section, address } = function;
        let info = ExplicitModuleSectionInfo {
            base_svma: code.start,
            eh_frame_svma: Some(address..address.saturating_add(section.len() as u64)),
            eh_frame: Some(section),
            ..ExplicitModuleSectionInfo::default()
        };
        let module = Module::new(String::new(), code.clone(), code.start, info);
        match self {
            Self::I386(_) => {}
            Self::X86_64(unwinder, _) => unwinder.add_module(module),
            Self::Aarch64(unwinder, _) => unwinder.add_module(module),
        }
    }

    /// The registers of the caller of a frame; `None` at the end of the stack. `is_return_address` says that the instruction
    /// pointer is where a call returns to.
    pub(super) fn unwind_frame(
        &mut self,
        registers: Registers,
        is_return_address: bool,
        pages: &mut PageCache<'_>,
    ) -> Result<Option<Registers>, CannotUnwind> {
        let ip = registers.instruction_pointer();
        let address = match FrameAddress::from_return_address(ip).filter(|_| is_return_address) {
            Some(address) => address,
            None => FrameAddress::from_instruction_pointer(ip),
        };
        let mut read = |address| pages.read_u64(address).ok_or(());
        match (self, registers) {
            (Self::I386(unwinder), Registers::I386(registers)) => {
                let caller = unwinder.unwind_frame(registers, address.address_for_lookup(), pages)?;
                Ok(caller.map(Registers::I386))
            }
            (Self::X86_64(unwinder, cache), Registers::X86_64 { ip, sp, bp }) => {
                let mut now = UnwindRegsX86_64::new(ip, sp, bp);
                let next = unwinder.unwind_frame(address, &mut now, cache, &mut read)?;
                Ok(next.map(|ip| Registers::X86_64 { ip, sp: now.sp(), bp: now.bp() }))
            }
            (Self::Aarch64(unwinder, cache), Registers::Aarch64 { sp, fp, lr, .. }) => {
                let mask = PtrAuthMask::from_max_known_address(AARCH64_MAX_ADDRESS);
                let mut now = UnwindRegsAarch64::new_with_ptr_auth_mask(mask, lr, sp, fp);
                let next = unwinder.unwind_frame(address, &mut now, cache, &mut read)?;
                Ok(next.map(|pc| Registers::Aarch64 { pc, sp: now.sp(), fp: now.fp(), lr: now.lr() }))
            }
            _ => Ok(None),
        }
    }
}

/// The frame pointer.
pub(super) fn frame_pointer(registers: Registers) -> u64 {
    match registers {
        Registers::I386(registers) => registers.ebp.into(),
        Registers::X86_64 { bp, .. } => bp,
        Registers::Aarch64 { fp, .. } => fp,
    }
}

/// The registers of a caller of which these three are known; `None` if that is no caller of a frame with such `registers`.
pub(super) fn caller_registers(registers: Registers, ip: u64, sp: u64, frame_pointer: u64) -> Option<Registers> {
    Some(match registers {
        Registers::I386(registers) => {
            let [eip, esp, ebp] = [ip, sp, frame_pointer].map(|word| u32::try_from(word).ok());
            Registers::I386(I386Registers { eip: eip?, esp: esp?, ebp: ebp?, ..registers })
        }
        Registers::X86_64 { .. } => Registers::X86_64 { ip, sp, bp: frame_pointer },
        Registers::Aarch64 { .. } => Registers::Aarch64 { pc: ip, sp, fp: frame_pointer, lr: ip },
    })
}

/// The registers of the code that a signal interrupted; `None` if `registers` are not those of the trampoline that a signal
/// handler returns to.
pub(super) fn interrupted_by_signal(registers: Registers, pages: &mut PageCache<'_>) -> Option<Registers> {
    match registers {
        Registers::I386(registers) => i386::interrupted_by_signal(registers, pages).map(Registers::I386),
        Registers::X86_64 { ip, sp, .. } => {
            // mov NUMBER,%rax (or %eax); syscall: rt_sigreturn, which is 15, and 513 with __X32_SYSCALL_BIT for x32. When a handler has
            // returned, the stack pointer is at the struct ucontext, whose general registers begin at 40, or at 24 in x32: r8 to r15,
            // rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip (arch/x86/include/uapi/asm/sigcontext.h, arch/x86/include/asm/sigframe.h).
            const LONG: usize = 9;
            const FORMS: [([u8; 4], u64); 2] = [([15, 0, 0, 0], 40), ([1, 2, 0, 0x40], 24)];
            let code = pages.read(ip, LONG)?;
            let (_, registers_at) = FORMS.into_iter().find(|(number, _)| {
                let [long, short]: [&[u8]; 2] = [&[0x48, 0xc7, 0xc0], &[0xb8]];
                [long, short].iter().any(|mov| code.starts_with(&[*mov, number, &[0x0f, 0x05]].concat()))
            })?;
            let mut register = |index: u64| pages.read_u64(sp.checked_add(registers_at + index * 8)?);
            Some(Registers::X86_64 { bp: register(10)?, sp: register(15)?, ip: register(16)? })
        }
        Registers::Aarch64 { pc, sp, .. } => {
            // mov x8,#139; svc #0. The stack pointer is at the struct rt_sigframe: 128 bytes of siginfo, then the ucontext with
            // its struct sigcontext at 176: fault_address, x0 to x30, sp, pc (arch/arm64/include/uapi/asm/sigcontext.h).
            if pages.read_u32(pc)? != 0xd280_1168 || pages.read_u32(pc.checked_add(4)?)? != 0xd400_0001 {
                return None;
            }
            let mut register = |index: u64| pages.read_u64(sp.checked_add(128 + 176 + 8 + index * 8)?);
            Some(Registers::Aarch64 { fp: register(29)?, lr: register(30)?, sp: register(31)?, pc: register(32)? })
        }
    }
}

/// Whether a call instruction ends at `address`.
pub(super) fn follows_call(registers: Registers, address: u64, pages: &mut PageCache<'_>) -> bool {
    let Some(code) = address.checked_sub(8).and_then(|at| pages.read_u64(at)) else { return false };
    let code = code.to_le_bytes();
    match registers {
        Registers::I386(_) | Registers::X86_64 { .. } => {
            // call rel32, or one of the lengths that call r/m64 can have.
            code[3] == 0xe8 || [2, 3, 4, 6, 7].into_iter().any(|length| is_indirect_call(&code, length))
        }
        Registers::Aarch64 { .. } => {
            let instruction = code.last_chunk().map_or(0, |word| u32::from_le_bytes(*word));
            // bl; blr, blraa and their variants.
            instruction & 0xfc00_0000 == 0x9400_0000 || instruction & 0xfeff_f000 == 0xd63f_0000
        }
    }
}

/// Where the direct call that ends at `address` leads; `None` if there is none, or not on x86.
pub(super) fn call_target(registers: Registers, address: u64, pages: &mut PageCache<'_>) -> Option<u64> {
    let [0xe8, distance @ ..] = *pages.read(address.checked_sub(5)?, 5)?.first_chunk::<5>()? else { return None };
    let target = address.wrapping_add_signed(i32::from_le_bytes(distance).into());
    match registers {
        Registers::X86_64 { .. } => Some(target),
        Registers::I386(_) => Some(target & u64::from(u32::MAX)),
        Registers::Aarch64 { .. } => None,
    }
}

/// Whether the last `length` bytes of x86_64 code are a call r/m64: opcode 0xff /2, ModRM byte, SIB byte and displacement (Intel
/// SDM, volume 2).
fn is_indirect_call(code: &[u8], length: usize) -> bool {
    let Some([0xff, modrm, rest @ ..]) = code.len().checked_sub(length).and_then(|begin| code.get(begin..)) else {
        return false;
    };
    let (mode, operation, rm) = (modrm >> 6, (modrm >> 3) & 7, modrm & 7);
    let sib = rest.first().filter(|_| mode != 3 && rm == 4);
    let displacement = match mode {
        0 if rm == 5 => 4,
        0 if sib.is_some_and(|sib| sib & 7 == 5) => 4,
        1 => 1,
        2 => 4,
        _ => 0,
    };
    operation == 2 && rest.len() == usize::from(mode != 3 && rm == 4) + displacement
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unwind::ReadMemory;

    /// At 0x1000 this code, and at 0x2000 words of which each is its number.
    struct CodeAndWords(Vec<u8>);

    impl ReadMemory for CodeAndWords {
        fn read_exact_at(&self, address: u64, buffer: &mut [u8]) -> bool {
            let words = || (0..512_u64).flat_map(u64::to_le_bytes);
            let bytes: Vec<u8> = if address == 0x1000 { self.0.clone() } else { words().collect() };
            buffer.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
            true
        }
    }

    #[test]
    fn signal_frames_of_64_bit_code_and_of_x32_are_told_apart() {
        let state = Registers::X86_64 { ip: 0x1000, sp: 0x2000, bp: 1 };
        let found = |code: &[u8]| interrupted_by_signal(state, &mut PageCache::new(&CodeAndWords(code.to_vec())));
        let at = |first: u64| Some(Registers::X86_64 { bp: first + 10, sp: first + 15, ip: first + 16 });
        assert_eq!(found(&[0x48, 0xc7, 0xc0, 15, 0, 0, 0, 0x0f, 0x05]), at(5));
        assert_eq!(found(&[0xb8, 15, 0, 0, 0, 0x0f, 0x05]), at(5));
        assert_eq!(found(&[0x48, 0xc7, 0xc0, 1, 2, 0, 0x40, 0x0f, 0x05]), at(3));
        assert_eq!(found(&[0xb8, 1, 2, 0, 0x40, 0x0f, 0x05]), at(3));
        assert_eq!(found(&[0xb8, 16, 0, 0, 0, 0x0f, 0x05]), None);
    }

    #[test]
    fn indirect_calls_of_every_length_are_recognized() {
        let calls: [&[u8]; 7] = [
            &[0xff, 0xd0],                   // call *%rax
            &[0xff, 0x14, 0x24],             // call *(%rsp)
            &[0xff, 0x50, 0x18],             // call *0x18(%rax)
            &[0xff, 0x54, 0x24, 0x08],       // call *0x8(%rsp)
            &[0xff, 0x15, 1, 2, 3, 4],       // call *0x4030201(%rip)
            &[0xff, 0x14, 0xc5, 1, 2, 3, 4], // call *0x4030201(,%rax,8)
            &[0xff, 0x94, 0x24, 1, 2, 3, 4], // call *0x4030201(%rsp)
        ];
        for call in calls {
            let code = [&[0x90; 8], call].concat();
            let lengths: Vec<usize> = (0..8).filter(|length| is_indirect_call(&code, *length)).collect();
            assert_eq!(lengths, [call.len()], "{call:x?}");
        }
        // jmp *%rax, and a call that is incomplete.
        assert!(!is_indirect_call(&[0xff, 0xe0], 2) && !is_indirect_call(&[0xff, 0x50], 2));
    }
}
