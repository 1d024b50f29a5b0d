/*
 * Preloaded into User-Mode Linux on processors whose XSAVE area is larger than the one that it knows.
 *
 * User-Mode Linux before 6.13 keeps 2,696 bytes of a process's registers (arch/x86/um/user-offsets.c), which is all there is up
 * to AVX-512 and PKRU. With AMX there are 11,008, and the machine's kernel refuses to set fewer than all (EFAULT,
 * xstateregs_set() in arch/x86/kernel/fpu/regset.c): the guest dies before its first program runs. Here what is missing is
 * filled with zeros. That is the initial state, and no program in the guest has another: AMX has to be asked for
 * (ARCH_REQ_XCOMP_PERM), and the guest's kernel does not give it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

#define LARGER_THAN_ANY_XSTATE 65536 /* the kernel takes as much of it as it has */

typedef long (*ptrace_function)(enum __ptrace_request, ...);

long ptrace(enum __ptrace_request request, ...)
{
	static unsigned char wide[LARGER_THAN_ANY_XSTATE];
	static ptrace_function next;
	struct iovec whole = { wide, sizeof(wide) };
	va_list arguments;

	va_start(arguments, request);
	long pid = va_arg(arguments, long);
	void *address = va_arg(arguments, void *);
	void *data = va_arg(arguments, void *);
	va_end(arguments);

	if (!next)
		next = (ptrace_function)dlsym(RTLD_NEXT, "ptrace");
	if (request == PTRACE_SETREGSET && (long)address == NT_X86_XSTATE) {
		const struct iovec *known = data;

		if (known->iov_len < sizeof(wide)) {
			memcpy(wide, known->iov_base, known->iov_len);
			data = &whole;
		}
	}
	return next(request, pid, address, data);
}
