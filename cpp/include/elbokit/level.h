// CPU levels: every kernel is compiled once per level, in a namespace of the level's name.
#pragma once

#if defined(__x86_64__)
#define ELBOKIT_FOR_EACH_LEVEL(M) M(v2) M(v3) M(v4)
#else
#define ELBOKIT_FOR_EACH_LEVEL(M) M(baseline)
#endif
