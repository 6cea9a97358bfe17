// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * start: from the boot loader to guest_main(), and from a SIPI to guest_ap_main()
 *
 * Multiboot leaves us in flat 32-bit protected mode with interrupts off and a GDT that we may not rely on: ours has
 * code at 0x08 and data at 0x10. Paging stays off: a guest sees guest physical addresses.
 */
        .section .multiboot, "a"
        .align 4
        .long 0x1badb002, 3, -(0x1badb002 + 3)

        .text
        .globl _start
_start:
        cli
        cld
        mov $stack_top, %esp
        lgdt gdt_pointer
        ljmp $0x08, $1f
1:      mov $0x10, %ecx
        mov %ecx, %ds
        mov %ecx, %es
        mov %ecx, %fs
        mov %ecx, %gs
        mov %ecx, %ss
        push %ebx
        push %eax
        call guest_start
2:      hlt
        jmp 2b

/* Copied to GUEST_TRAMPOLINE, where a SIPI starts a processor in real mode with CS = its page. */
        .code16
        .globl guest_trampoline, guest_trampoline_end
guest_trampoline:
        cli
        mov %cs, %ax
        mov %ax, %ds
        lgdtl trampoline_gdt - guest_trampoline
        mov %cr0, %eax
        or $1, %eax
        mov %eax, %cr0
        ljmpl $0x08, $ap_start
        .align 4
trampoline_gdt:
        .word gdt_end - gdt - 1
        .long gdt
guest_trampoline_end:

        .code32
ap_start:
        mov $0x10, %ecx
        mov %ecx, %ds
        mov %ecx, %es
        mov %ecx, %fs
        mov %ecx, %gs
        mov %ecx, %ss
        mov $1, %eax
        lock xadd %eax, ap_stacks_used
        inc %eax
        shl $9, %eax
        lea ap_stacks(%eax), %esp
        call guest_ap_main
3:      cli
        hlt
        jmp 3b

        .section .data
        .align 8
gdt:    .quad 0
        .quad 0x00cf9b000000ffff
        .quad 0x00cf93000000ffff
gdt_end:
gdt_pointer:
        .word gdt_end - gdt - 1
        .long gdt
ap_stacks_used:
        .long 0

        .section .bss
        .align 16
        .skip 16384
stack_top:
        .align 16
ap_stacks:
        .skip 512 * 256

        .section .note.GNU-stack, "", @progbits
