// Fused CPU kernels for training and decoding small transformers.
//
// Every tensor is contiguous, in the layout that ops.py and decoding.py document. Numbers are stored in fp32 or bf16 and
// summed in fp32. N tokens, D size, H query heads, K key and value heads, E head size.
//
// Threads are torch's own, through `torch_parallel_for`. Work is cut into items by shape alone, each item is computed
// by one thread in a fixed order, and what is summed over items is summed afterwards in order: so results do not depend
// on the number of threads, nor those of one sequence on its neighbours.

#include "base.hpp"

namespace {

#include "training.hpp"
#include "decoding.hpp"

}  // namespace

// -------------------------------------------------------------------------------------------- what the library exports

#define EXPORT(name)                                \
  decltype(&name<float>) name##_f32 = &name<float>; \
  decltype(&name<BFloat16>) name##_bf16 = &name<BFloat16>;

// By the types of weights and of keys and values.
#define EXPORT_CACHED(name)                                    \
  decltype(&name<float, float>) name##_f32_f32 = &name<float, float>, \
                                name##_f32_i8 = &name<float, int8_t>, \
                                name##_bf16_bf16 = &name<BFloat16, BFloat16>, \
                                name##_bf16_i8 = &name<BFloat16, int8_t>;

extern "C" {

int64_t lanes() { return W; }

bool paired() { return PAIRED; }

// Whether the processor has instructions that multiply bf16 matrices.
bool multiplies_bf16() {
#if defined(__AVX512BF16__) || defined(__AMX_BF16__) || defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
  return true;
#else
  return false;
#endif
}

void use_threads(void* torch_parallel_for) {
  parallel_for = reinterpret_cast<decltype(parallel_for)>(torch_parallel_for);
}

EXPORT(rms_norm)
EXPORT(rms_norm_backward)
EXPORT(rope_norm)
EXPORT(rope_norm_backward)
EXPORT(silu_mul)
EXPORT(silu_mul_backward)
EXPORT(packed_attention)
EXPORT(packed_attention_backward)
EXPORT(token_logprobs)
EXPORT(token_logprobs_backward)
EXPORT_CACHED(decode)
EXPORT_CACHED(prefill)
EXPORT_CACHED(sample)
decltype(&draw) draw_f32 = &draw;

}  // extern "C"
