# The C library: `make`, `make install DESTDIR= PREFIX= LIBDIR=`, `make uninstall`. Needs cargo, cc, binutils and make;
# `./setup install` says which of them is missing.
#
# Cargo makes a static archive, and cc links the shared library from it: only so does it get its symbol versions and
# nothing but its own symbols, and the flags of the distribution. The Rust library stays an rlib.

CARGO ?= cargo
CARGO_FLAGS ?= --locked
CARGO_PROFILE ?= release
PREFIX ?= /usr/local
EXEC_PREFIX ?= $(PREFIX)
LIBDIR ?= $(EXEC_PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
MANDIR ?= $(PREFIX)/share/man
PKGCONFIGDIR ?= $(LIBDIR)/pkgconfig
INSTALL ?= install
OBJCOPY ?= objcopy
# What is installed is stripped, and what was cut off of the shared library goes to DEBUGDIR, where gdb, valgrind and
# addr2line look for it. `STRIP=` leaves all as it was built, for packagers whose tools do this themselves.
STRIP ?= strip
DEBUGDIR ?= $(LIBDIR)/.debug

C_ROOT := $(patsubst %/,%,$(dir $(abspath $(dir $(lastword $(MAKEFILE_LIST))))))
C_TARGET := $(abspath $(or $(CARGO_TARGET_DIR),$(C_ROOT)/target))
# Where the library is built, and found by PKG_CONFIG_PATH before it is installed.
C_BUILD ?= $(C_TARGET)/c
C_VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' $(C_ROOT)/Cargo.toml | head -n 1)
C_SONAME := libcheckmap.so.0
C_SHARED := libcheckmap.so.$(C_VERSION)
# As `cargo rustc -- --print native-static-libs` says, but for -lgcc_s, which `cc` adds in the form that fits, as there is
# no static one; the tests link static programs with them.
C_PRIVATE := -lutil -lrt -lpthread -lm -ldl -lc
C_MAP := $(C_ROOT)/libcheckmap/checkmap.map
C_PROFILE_DIR := $(addsuffix /,$(CARGO_BUILD_TARGET))$(if $(filter dev,$(CARGO_PROFILE)),debug,$(CARGO_PROFILE))
C_MAN := $(wildcard $(C_ROOT)/libcheckmap/man/*.3)

.PHONY: all always install uninstall c-generated test-c-sanitize test-cargo-c

all: $(C_BUILD)/$(C_SHARED) $(C_BUILD)/checkmap-uninstalled.pc

C_ARCHIVE := $(C_TARGET)/$(C_PROFILE_DIR)/libcheckmap.a
# `sudo make install` takes what its caller built: root builds nothing in another user's folder, nor needs a cargo.
c_is_anothers = [ "$$(id -u)" -eq 0 ] && [ -e $(C_ARCHIVE) ] && [ "$$(stat -c %u $(C_ARCHIVE))" -ne 0 ]
c_needs = @command -v $(firstword $(1)) >/dev/null || { echo "make: $(firstword $(1)) is missing: ./setup install says what to install" >&2; exit 1; }

# Cargo knows best what is out of date. An archive that did not change is left alone, and so is what is linked from it.
$(C_BUILD)/libcheckmap.a: always
	@command -v $(firstword $(CARGO)) >/dev/null || test -e $(C_ARCHIVE) \
		|| { echo "make: cargo is missing: ./setup install says what to install" >&2; exit 1; }
	@if command -v $(firstword $(CARGO)) >/dev/null && ! { $(c_is_anothers); }; then cd $(C_ROOT) && CARGO_TARGET_DIR=$(C_TARGET) \
		$(CARGO) rustc --quiet $(CARGO_FLAGS) --profile $(CARGO_PROFILE) --lib --features capi --crate-type staticlib; fi
	@mkdir -p $(C_BUILD)
	@cmp -s $(C_ARCHIVE) $(C_BUILD)/libcheckmap.a || cp $(C_ARCHIVE) $@

$(C_BUILD)/$(C_SHARED): $(C_BUILD)/libcheckmap.a $(C_MAP)
	$(call c_needs,$(CC))
	$(CC) -shared $(CFLAGS) $(LDFLAGS) -o $@.new \
		-Wl,--whole-archive $(C_BUILD)/libcheckmap.a -Wl,--no-whole-archive -Wl,--gc-sections \
		-Wl,--version-script=$(C_MAP) -Wl,-soname,$(C_SONAME) \
		-Wl,-z,nodelete -Wl,-z,relro -Wl,-z,now -Wl,-z,defs $(C_PRIVATE)
	mv $@.new $@
	ln -sf $(C_SHARED) $(C_BUILD)/$(C_SONAME)
	ln -sf $(C_SONAME) $(C_BUILD)/libcheckmap.so

# $(1) libdir, $(2) includedir
c_pc = sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@EXEC_PREFIX@|$(EXEC_PREFIX)|' -e 's|@LIBDIR@|$(1)|' \
	-e 's|@INCLUDEDIR@|$(2)|' -e 's|@VERSION@|$(C_VERSION)|' -e 's|@PRIVATE@|$(C_PRIVATE)|' \
	$(C_ROOT)/libcheckmap/checkmap.pc.in

$(C_BUILD)/checkmap-uninstalled.pc: $(C_ROOT)/libcheckmap/checkmap.pc.in $(C_ROOT)/Cargo.toml
	mkdir -p $(C_BUILD)
	$(call c_pc,$(C_BUILD),$(C_ROOT)/include) > $@

install: all
	$(if $(STRIP),$(call c_needs,$(STRIP)))
	$(if $(STRIP),$(call c_needs,$(OBJCOPY)))
	$(INSTALL) -d $(DESTDIR)$(LIBDIR) $(DESTDIR)$(INCLUDEDIR) $(DESTDIR)$(PKGCONFIGDIR) $(DESTDIR)$(MANDIR)/man3
	$(INSTALL) -m 755 $(C_BUILD)/$(C_SHARED) $(DESTDIR)$(LIBDIR)/$(C_SHARED)
	ln -sf $(C_SHARED) $(DESTDIR)$(LIBDIR)/$(C_SONAME)
	ln -sf $(C_SONAME) $(DESTDIR)$(LIBDIR)/libcheckmap.so
	$(INSTALL) -m 644 $(C_BUILD)/libcheckmap.a $(DESTDIR)$(LIBDIR)/libcheckmap.a
	$(if $(STRIP),$(c_strip))
	$(INSTALL) -m 644 $(C_ROOT)/include/checkmap.h $(DESTDIR)$(INCLUDEDIR)/checkmap.h
	$(call c_pc,$(LIBDIR),$(INCLUDEDIR)) > $(DESTDIR)$(PKGCONFIGDIR)/checkmap.pc
	chmod 644 $(DESTDIR)$(PKGCONFIGDIR)/checkmap.pc
	@$(if $(C_MAN),$(INSTALL) -m 644 $(C_MAN) $(DESTDIR)$(MANDIR)/man3)

define c_strip
	$(INSTALL) -d $(DESTDIR)$(DEBUGDIR)
	$(OBJCOPY) --only-keep-debug $(C_BUILD)/$(C_SHARED) $(DESTDIR)$(DEBUGDIR)/$(C_SHARED).debug
	chmod 644 $(DESTDIR)$(DEBUGDIR)/$(C_SHARED).debug
	$(STRIP) --strip-unneeded $(DESTDIR)$(LIBDIR)/$(C_SHARED)
	$(OBJCOPY) --add-gnu-debuglink=$(DESTDIR)$(DEBUGDIR)/$(C_SHARED).debug $(DESTDIR)$(LIBDIR)/$(C_SHARED)
	$(STRIP) --strip-debug $(DESTDIR)$(LIBDIR)/libcheckmap.a
endef

uninstall:
	rm -f $(DESTDIR)$(LIBDIR)/$(C_SHARED) $(DESTDIR)$(LIBDIR)/$(C_SONAME) $(DESTDIR)$(LIBDIR)/libcheckmap.so \
		$(DESTDIR)$(LIBDIR)/libcheckmap.a $(DESTDIR)$(DEBUGDIR)/$(C_SHARED).debug $(DESTDIR)$(INCLUDEDIR)/checkmap.h $(DESTDIR)$(PKGCONFIGDIR)/checkmap.pc \
		$(addprefix $(DESTDIR)$(MANDIR)/man3/,$(notdir $(C_MAN)))

# What is made from the sources of the C library and stands in the repository: header, symbol map, manual pages, ABI.
c-generated:
	cd $(C_ROOT) && UPDATE=1 $(CARGO) test $(CARGO_FLAGS) --quiet --test header -- sources_say
	cd $(C_ROOT) && UPDATE=1 $(CARGO) test $(CARGO_FLAGS) --quiet --test capi the_abi

# Rust's side instrumented too, and much more random calls than in CI; RUSTC_BOOTSTRAP because sanitizers are not stable.
C_TRIPLE = $(shell $(CARGO) -vV | sed -n 's/^host: //p')
test-c-sanitize:
	cd $(C_ROOT) && CHECKMAP_C_SANITIZE=$(C_TRIPLE) CHECKMAP_C_ALL=1 CHECKMAP_C_FUZZ_ROUNDS=20000 \
		$(CARGO) test $(CARGO_FLAGS) --test capi -- --nocapture every_behaviour_in_c_with_sanitizers random

# The second way to the library: needs cargo-c (`cargo install cargo-c`; 0.10.24 is the last for Rust 1.95).
test-cargo-c:
	cd $(C_ROOT) && rm -rf $(C_BUILD)/cargo-c && CARGO_TARGET_DIR=$(C_TARGET) $(CARGO) cinstall $(CARGO_FLAGS) --release \
		--features capi --prefix=/usr --libdir=/usr/lib --destdir=$(C_BUILD)/cargo-c
	for file in include/checkmap.h lib/libcheckmap.so.0 lib/libcheckmap.a lib/pkgconfig/checkmap.pc; do \
		test -e $(C_BUILD)/cargo-c/usr/$$file || { echo "$$file is missing" >&2; exit 1; }; done
	readelf -d $(C_BUILD)/cargo-c/usr/lib/libcheckmap.so | grep -F '[libcheckmap.so.0]'
	$(CC) -I$(C_BUILD)/cargo-c/usr/include $(C_ROOT)/examples/incremental.c -o $(C_BUILD)/cargo-c/incremental \
		-L$(C_BUILD)/cargo-c/usr/lib -lcheckmap
	! LD_LIBRARY_PATH=$(C_BUILD)/cargo-c/usr/lib $(C_BUILD)/cargo-c/incremental /dev/null none
