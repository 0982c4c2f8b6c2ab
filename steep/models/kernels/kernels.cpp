// Fused CPU kernels for training and decoding small transformers.
//
// Every tensor is contiguous, in the layout that ops.py documents. Storage T is fp32 or bf16; arithmetic is fp32.
// N tokens, D size, H query heads, K key and value heads, E head size.
//
// Threads are torch's own, through `torch_parallel_for`. Work is cut into items by shape alone, each item is computed
// by one thread in a fixed order, and what is summed over items is summed afterwards in order: so results do not depend
// on the number of threads, nor those of one sequence on its neighbours.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace {

// ------------------------------------------------------------------------------------------------- numbers and vectors

#if defined(__AVX512F__)
constexpr int W = 16, TILE_VECTORS = 4;  // floats in a vector; vectors of one row that a product keeps in registers
#elif defined(__AVX__)
constexpr int W = 8, TILE_VECTORS = 2;
#elif defined(__aarch64__)
constexpr int W = 4, TILE_VECTORS = 4;
#else
constexpr int W = 4, TILE_VECTORS = 2;
#endif
constexpr int TILE_ROWS = 6;  // rows that a product keeps in registers

typedef float Vector __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef uint32_t Words __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef uint16_t Halves __attribute__((vector_size(2 * W), aligned(2), may_alias));

template <class To, class From>
inline To bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

enum BFloat16 : uint16_t {};  // not a struct: compilers vectorise over numbers only

inline float widen(float x) { return x; }
inline float widen(BFloat16 x) { return bits<float>(uint32_t(x) << 16); }

template <class T>
inline T narrow(float x) {
  return x;
}
template <>
inline BFloat16 narrow<BFloat16>(float x) {  // to nearest, ties to even; NaN stays NaN
  const uint32_t u = bits<uint32_t>(x);
  return BFloat16((x != x ? 0x7fc00000u : u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

inline Vector load(const float* p) { return *reinterpret_cast<const Vector*>(p); }
inline Vector load(const BFloat16* p) {
  return bits<Vector>(__builtin_convertvector(*reinterpret_cast<const Halves*>(p), Words) << 16);
}

inline void store(Vector x, float* p) { *reinterpret_cast<Vector*>(p) = x; }

// e^x to 2 ulp, of a float or of a Vector (U: unsigned integers of the same width): Cephes' polynomial after
// x = n log 2 + r. Zero below e^-87, infinite above e^88, NaN for NaN.
template <class U, class F>
inline F exponential(F x) {
  const F least = F{} - 87.0f, most = F{} + 88.0f;
  const F shifted = x * 1.44269504f + 12582912.0f;  // the last bits of 1.5 * 2^23 + n hold n
  const F n = shifted - 12582912.0f;
  const F r = x - n * 0.693359375f + n * 2.12194440e-4f;
  F p = F{} + 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const F result = p * bits<F>((bits<U>(shifted) << 23) + 0x3f800000u);
  return x < least ? F{} : x > most ? F{} + INFINITY : result;
}
inline float exponential(float x) { return exponential<uint32_t, float>(x); }
inline Vector exponential(Vector x) { return exponential<Words, Vector>(x); }

// The lanes of a vector, two by two: add(a, b) of all of them.
template <class Add>
inline float across(Vector x, Add add) {
  float lanes[W];
  std::memcpy(lanes, &x, sizeof lanes);
  for (int width = W / 2; width > 0; width /= 2)
    for (int i = 0; i < width; i++) lanes[i] = add(lanes[i], lanes[i + width]);
  return lanes[0];
}

inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

bool within(const int64_t* indices, int64_t count, int64_t limit) {
  return std::all_of(indices, indices + count, [=](int64_t i) { return 0 <= i && i < limit; });
}

// -------------------------------------------------------------------------------------------- threads and their memory

using Range = void (*)(int64_t begin, int64_t end, void* context);
int32_t (*parallel_for)(int64_t begin, int64_t end, int64_t grain, Range function, void* context) = nullptr;

// work(i) for every i below `items`; a thread that is free takes the next.
template <class Work>
void each(int64_t items, const Work& work) {
  struct Queue {
    const Work& work;
    int64_t items;
    std::atomic<int64_t> next;
  } queue{work, items, {0}};
  const Range drain = [](int64_t, int64_t, void* context) {
    auto& queue = *static_cast<Queue*>(context);
    for (int64_t i; (i = queue.next.fetch_add(1)) < queue.items;) queue.work(i);
  };
  if (parallel_for == nullptr || items < 2) drain(0, items, &queue);
  else if (parallel_for(0, items, 1, drain, &queue) != 0) std::abort();
}

// work(chunk, first, last) over rows, in chunks of about CHUNK numbers whatever the number of threads.
constexpr int64_t CHUNK = 32768;
int64_t rows_per_chunk(int64_t size) { return std::max<int64_t>(1, CHUNK / std::max<int64_t>(1, size)); }

template <class Work>
void each_chunk(int64_t rows, int64_t size, const Work& work) {
  const int64_t step = rows_per_chunk(size);
  each(divide_up(rows, step), [&](int64_t chunk) { work(chunk, chunk * step, std::min(rows, (chunk + 1) * step)); });
}

template <class Work>
void each_row(int64_t rows, int64_t size, const Work& work) {
  each_chunk(rows, size, [&](int64_t, int64_t first, int64_t last) {
    for (int64_t row = first; row < last; row++) work(row);
  });
}

// Sums that each chunk makes on its own, [chunks, size], and their total in the order of chunks.
struct PartialSums {
  int64_t size;
  std::vector<float> sums;
  PartialSums(int64_t rows, int64_t row_size, int64_t size)
      : size(size), sums(size * divide_up(rows, rows_per_chunk(row_size))) {}
  float* of(int64_t chunk) { return sums.data() + chunk * size; }
  void total(float* out) const {
    std::fill(out, out + size, 0.0f);
    for (size_t i = 0; i < sums.size(); i++) out[i % size] += sums[i];
  }
};

// Memory that a thread keeps between items, by slot, aligned to a cache line.
enum Slot { KEYS, ACROSS, VALUES, QUERY_TILE, SCORES, SUMS, MIXED, GRAD_KEYS, GRAD_VALUES, GRAD_SCORES, GRADS, SLOTS };

float* scratch(Slot slot, int64_t count) {
  struct Memory {
    float* data = nullptr;
    int64_t size = 0;
    ~Memory() { std::free(data); }
  };
  static thread_local Memory slots[SLOTS];
  Memory& memory = slots[slot];
  if (memory.size < count) {
    std::free(memory.data);
    memory.size = round_up(count, 1024);
    memory.data = static_cast<float*>(std::aligned_alloc(64, memory.size * sizeof(float)));
    if (memory.data == nullptr) std::abort();
  }
  return memory.data;
}

// ------------------------------------------------------------------------------------------------------- normalisation

template <class T>
float inverse_rms(const T* x, int64_t size, float eps) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < size; i++) sum += widen(x[i]) * widen(x[i]);
  return 1.0f / std::sqrt(sum / size + eps);
}

// Gradient of y = x * inverse_rms(x) * weight: writes grad_x, adds to grad_weight.
template <class T, class G>
void norm_backward(const T* x, const float* weight, const G* grad, int64_t size, float eps, T* grad_x,
                   float* grad_weight) {
  const float inverse = inverse_rms(x, size, eps);
  float dot = 0;
#pragma omp simd reduction(+ : dot)
  for (int64_t i = 0; i < size; i++) dot += widen(grad[i]) * weight[i] * widen(x[i]);
  dot *= inverse * inverse / size;
#pragma omp simd
  for (int64_t i = 0; i < size; i++) {
    const float g = widen(grad[i]) * inverse, value = widen(x[i]);
    grad_weight[i] += g * value;
    grad_x[i] = narrow<T>(g * weight[i] - value * dot * inverse);
  }
}

// ----------------------------------------------------------------------------------------------- products in registers

struct Strided {  // element (i, k) is data[i * row + k * step]
  const float* data;
  int64_t row, step;
};

template <class S>
struct Panels {  // vector j of row k starts at data[k * step + j * next]
  const S* data;
  int64_t step, next;
};

template <int R, int C, class S>
inline void product_tile(int64_t depth, Strided a, Panels<S> b, float* out, int64_t out_row, bool add) {
  Vector sums[R][C];
  for (int i = 0; i < R; i++)
    for (int j = 0; j < C; j++) sums[i][j] = add ? load(out + i * out_row + j * W) : Vector{};
  for (int64_t k = 0; k < depth; k++) {
    Vector right[C];
    for (int j = 0; j < C; j++) right[j] = load(b.data + k * b.step + j * b.next);
    for (int i = 0; i < R; i++) {
      const float left = a.data[i * a.row + k * a.step];
      for (int j = 0; j < C; j++) sums[i][j] += left * right[j];
    }
  }
  for (int i = 0; i < R; i++)
    for (int j = 0; j < C; j++) store(sums[i][j], out + i * out_row + j * W);
}

template <int C, class S>
inline void product_columns(int64_t rows, int64_t depth, Strided a, Panels<S> b, float* out, int64_t out_row,
                            bool add) {
  for (; rows > 0; rows -= TILE_ROWS, a.data += TILE_ROWS * a.row, out += TILE_ROWS * out_row) {
    switch (rows) {
      case 1: product_tile<1, C>(depth, a, b, out, out_row, add); break;
      case 2: product_tile<2, C>(depth, a, b, out, out_row, add); break;
      case 3: product_tile<3, C>(depth, a, b, out, out_row, add); break;
      case 4: product_tile<4, C>(depth, a, b, out, out_row, add); break;
      case 5: product_tile<5, C>(depth, a, b, out, out_row, add); break;
      default: product_tile<TILE_ROWS, C>(depth, a, b, out, out_row, add);
    }
  }
}

// out[rows, vectors * W] (+)= a[rows, depth] b[depth, vectors * W]. Each number is one sum in the order of depth,
// however many rows and vectors there are.
template <class S>
void product(int64_t rows, int64_t vectors, int64_t depth, Strided a, Panels<S> b, float* out, int64_t out_row,
             bool add) {
  while (vectors > 0) {
    const int step = vectors >= TILE_VECTORS ? TILE_VECTORS : vectors >= 2 ? 2 : 1;
    if (step == TILE_VECTORS) product_columns<TILE_VECTORS>(rows, depth, a, b, out, out_row, add);
    else if (step == 2) product_columns<2>(rows, depth, a, b, out, out_row, add);
    else product_columns<1>(rows, depth, a, b, out, out_row, add);
    vectors -= step;
    b.data += step * b.next;
    out += step * W;
  }
}

// ----------------------------------------------------------------------------------------------------------- attention

// to[rows, wide] = scale * from[rows, size], zero beyond size.
template <class T>
void copy_rows(const T* from, int64_t from_row, int64_t rows, int64_t size, int64_t wide, float scale, float* to) {
  for (int64_t i = 0; i < rows; i++, from += from_row, to += wide) {
#pragma omp simd
    for (int64_t j = 0; j < size; j++) to[j] = scale * widen(from[j]);
    std::fill(to + size, to + wide, 0.0f);
  }
}

// to[rows / W, size, W]: W rows side by side, so that a product yields W scores in one vector. Zero beyond the rows.
template <class T>
void copy_across(const T* from, int64_t from_row, int64_t rows, int64_t size, float* to) {
  for (int64_t first = 0; first < rows; first += W, to += size * W) {
    const int64_t count = std::min<int64_t>(W, rows - first);
    for (int64_t j = 0; j < size; j++) {
      const T* column = from + first * from_row + j;
      for (int64_t i = 0; i < count; i++) to[j * W + i] = widen(column[i * from_row]);
      for (int64_t i = count; i < W; i++) to[j * W + i] = 0.0f;
    }
  }
}

template <class T>
void write_rows(const float* from, int64_t wide, int64_t rows, int64_t size, float scale, T* to, int64_t to_row) {
  for (int64_t i = 0; i < rows; i++, from += wide, to += to_row)
#pragma omp simd
    for (int64_t j = 0; j < size; j++) to[j] = narrow<T>(scale * from[j]);
}

// scores = e^(scores - most) for the first `count`, where `most` is their maximum, then zero up to a whole number of
// `vectors`. Returns the sum.
float exponentials(float* scores, int64_t count, int64_t vectors, float& most) {
  std::fill(scores + count, scores + vectors * W, -INFINITY);
  Vector high = load(scores), sum = {};
  for (int64_t i = 1; i < vectors; i++) high = load(scores + i * W) > high ? load(scores + i * W) : high;
  most = across(high, [](float a, float b) { return a > b ? a : b; });
  for (int64_t i = 0; i < vectors; i++) {
    const Vector e = exponential(load(scores + i * W) - most);
    store(e, scores + i * W);
    sum += e;
  }
  return across(sum, [](float a, float b) { return a + b; });
}

constexpr int64_t QUERIES = 24;  // rows of scores made at a time

// One sequence of a packed batch as one key head sees it: all the query heads of its group, tile by tile.
struct Sequence {
  int64_t first, length, kv_head;
};

// Longest first, so that no thread is left with a long one.
std::vector<Sequence> attention_items(const int64_t* offsets, int64_t sequences, int64_t kv_heads) {
  std::vector<Sequence> items;
  items.reserve(sequences * kv_heads);
  for (int64_t s = 0; s < sequences; s++)
    for (int64_t head = 0; head < kv_heads; head++) items.push_back({offsets[s], offsets[s + 1] - offsets[s], head});
  std::stable_sort(items.begin(), items.end(), [](auto& a, auto& b) { return a.length > b.length; });
  return items;
}

inline float attention_scale(int64_t size) { return 1.0f / std::sqrt(float(size)); }

// ---------------------------------------------------------------------------------------------------------- operations

template <class T>
void rms_norm(int64_t rows, int64_t size, float eps, const T* x, const float* weight, T* y) {
  each_row(rows, size, [=](int64_t row) {
    const T* from = x + row * size;
    T* to = y + row * size;
    const float inverse = inverse_rms(from, size, eps);
#pragma omp simd
    for (int64_t i = 0; i < size; i++) to[i] = narrow<T>(widen(from[i]) * inverse * weight[i]);
  });
}

template <class T>
void rms_norm_backward(int64_t rows, int64_t size, float eps, const T* x, const float* weight, const T* grad, T* grad_x,
                       float* grad_weight) {
  PartialSums sums(rows, size, size);
  each_chunk(rows, size, [&](int64_t chunk, int64_t first, int64_t last) {
    for (int64_t at = first * size; at < last * size; at += size)
      norm_backward(x + at, weight, grad + at, size, eps, grad_x + at, sums.of(chunk));
  });
  sums.total(grad_weight);
}

// qkv [N, H + 2K, E] -> q [N, H, E] and k [N, K, E], normed where there is a weight and rotated by position, and
// v [N, K, E].
template <class T>
bool rope_norm(int64_t tokens, int64_t heads, int64_t kv_heads, int64_t size, float eps, const T* qkv,
               const float* q_weight, const float* k_weight, const float* cos, const float* sin,
               const int64_t* positions, int64_t max_positions, T* q, T* k, T* v) {
  if (!within(positions, tokens, max_positions)) return false;
  const int64_t row = (heads + 2 * kv_heads) * size, middle = size / 2;
  const std::vector<float> ones(size, 1.0f);
  each_row(tokens, row, [&](int64_t n) {
    const T* from = qkv + n * row;
    const float *c = cos + positions[n] * size, *s = sin + positions[n] * size;
    for (int64_t head = 0; head < heads + kv_heads; head++, from += size) {
      const bool query = head < heads;
      T* to = query ? q + (n * heads + head) * size : k + (n * kv_heads + head - heads) * size;
      const float* weight = query ? q_weight : k_weight;
      const float inverse = weight ? inverse_rms(from, size, eps) : 1.0f;
      const float* w = weight ? weight : ones.data();
#pragma omp simd
      for (int64_t i = 0; i < middle; i++) {
        const float a = widen(from[i]) * inverse * w[i], b = widen(from[i + middle]) * inverse * w[i + middle];
        to[i] = narrow<T>(a * c[i] - b * s[i]);
        to[i + middle] = narrow<T>(b * c[i + middle] + a * s[i + middle]);
      }
    }
    std::copy(from, from + kv_heads * size, v + n * kv_heads * size);
  });
  return true;
}

// grad_weights [2, E]: of the query weight and of the key weight, zero where there is none.
template <class T>
void rope_norm_backward(int64_t tokens, int64_t heads, int64_t kv_heads, int64_t size, float eps, const T* qkv,
                        const float* q_weight, const float* k_weight, const float* cos, const float* sin,
                        const int64_t* positions, const T* grad_q, const T* grad_k, const T* grad_v, T* grad_qkv,
                        float* grad_weights) {
  const int64_t row = (heads + 2 * kv_heads) * size, middle = size / 2;
  PartialSums sums(tokens, row, 2 * size);
  each_chunk(tokens, row, [&](int64_t chunk, int64_t first, int64_t last) {
    float* turned = scratch(MIXED, size);
    for (int64_t n = first; n < last; n++) {
      const T* x = qkv + n * row;
      T* grad_x = grad_qkv + n * row;
      const float *c = cos + positions[n] * size, *s = sin + positions[n] * size;
      for (int64_t head = 0; head < heads + kv_heads; head++, x += size, grad_x += size) {
        const bool query = head < heads;
        const T* grad = query ? grad_q + (n * heads + head) * size : grad_k + (n * kv_heads + head - heads) * size;
#pragma omp simd
        for (int64_t i = 0; i < middle; i++) {
          const float a = widen(grad[i]), b = widen(grad[i + middle]);
          turned[i] = a * c[i] + b * s[i + middle];
          turned[i + middle] = b * c[i + middle] - a * s[i];
        }
        const float* weight = query ? q_weight : k_weight;
        if (weight) norm_backward(x, weight, turned, size, eps, grad_x, sums.of(chunk) + (query ? 0 : size));
        else write_rows(turned, size, 1, size, 1.0f, grad_x, size);
      }
      std::copy(grad_v + n * kv_heads * size, grad_v + (n + 1) * kv_heads * size, grad_x);
    }
  });
  sums.total(grad_weights);
}

// gate_up [rows, 2, size] -> silu(gate) * up [rows, size]
template <class T>
void silu_mul(int64_t rows, int64_t size, const T* gate_up, T* y) {
  each_row(rows, 2 * size, [=](int64_t row) {
    const T *gate = gate_up + row * 2 * size, *up = gate + size;
    T* to = y + row * size;
#pragma omp simd
    for (int64_t i = 0; i < size; i++) to[i] = narrow<T>(widen(gate[i]) * sigmoid(widen(gate[i])) * widen(up[i]));
  });
}

template <class T>
void silu_mul_backward(int64_t rows, int64_t size, const T* gate_up, const T* grad, T* grad_gate_up) {
  each_row(rows, 2 * size, [=](int64_t row) {
    const T *gate = gate_up + row * 2 * size, *up = gate + size, *g = grad + row * size;
    T *grad_gate = grad_gate_up + row * 2 * size, *grad_up = grad_gate + size;
#pragma omp simd
    for (int64_t i = 0; i < size; i++) {
      const float x = widen(gate[i]), open = sigmoid(x), slope = open * (1.0f + x * (1.0f - open));
      grad_gate[i] = narrow<T>(widen(g[i]) * widen(up[i]) * slope);
      grad_up[i] = narrow<T>(widen(g[i]) * x * open);
    }
  });
}

// Causal attention within each sequence. Also lse [N, H]: the log of the sum of exponentials of each query's scores.
template <class T>
void packed_attention(int64_t sequences, const int64_t* offsets, int64_t heads, int64_t kv_heads, int64_t size,
                      const T* q, const T* k, const T* v, T* out, float* lse) {
  const int64_t group = heads / kv_heads, wide = round_up(size, W), q_row = heads * size, k_row = kv_heads * size;
  const auto items = attention_items(offsets, sequences, kv_heads);
  each(items.size(), [&](int64_t index) {
    const auto [first, length, kv_head] = items[index];
    const int64_t padded = round_up(length, W), score_row = padded + W, k_at = first * k_row + kv_head * size;
    float* keys_across = scratch(ACROSS, padded * size);
    float* values = scratch(VALUES, length * wide);
    float* queries = scratch(QUERY_TILE, QUERIES * size);
    float* scores = scratch(SCORES, QUERIES * score_row);
    float* mixed = scratch(MIXED, QUERIES * wide);
    copy_across(k + k_at, k_row, length, size, keys_across);
    copy_rows(v + k_at, k_row, length, size, wide, 1.0f, values);
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++)
      for (int64_t begin = 0; begin < length; begin += QUERIES) {
        const int64_t rows = std::min(QUERIES, length - begin), seen = begin + rows, vectors = divide_up(seen, W);
        const int64_t token = first + begin, q_at = token * q_row + head * size;
        copy_rows(q + q_at, q_row, rows, size, size, attention_scale(size), queries);
        product<float>(rows, vectors, size, {queries, size, 1}, {keys_across, W, size * W}, scores, score_row, false);
        float sums[QUERIES];
        for (int64_t i = 0; i < rows; i++) {
          float most;
          sums[i] = exponentials(scores + i * score_row, begin + i + 1, vectors, most);
          lse[(token + i) * heads + head] = most + std::log(sums[i]);
        }
        product<float>(rows, wide / W, seen, {scores, score_row, 1}, {values, wide, W}, mixed, wide, false);
        for (int64_t i = 0; i < rows; i++)
          write_rows(mixed + i * wide, wide, 1, size, 1.0f / sums[i], out + q_at + i * q_row, q_row);
      }
  });
}

// The probabilities are made again from lse; a key head's gradients are summed over its queries in order.
template <class T>
void packed_attention_backward(int64_t sequences, const int64_t* offsets, int64_t heads, int64_t kv_heads, int64_t size,
                               const T* q, const T* k, const T* v, const T* out, const float* lse, const T* grad,
                               T* grad_q, T* grad_k, T* grad_v) {
  const int64_t group = heads / kv_heads, wide = round_up(size, W), q_row = heads * size, k_row = kv_heads * size;
  const auto items = attention_items(offsets, sequences, kv_heads);
  each(items.size(), [&](int64_t index) {
    const auto [first, length, kv_head] = items[index];
    const int64_t padded = round_up(length, W), score_row = padded + W, k_at = first * k_row + kv_head * size;
    float* keys = scratch(KEYS, length * wide);
    float* keys_across = scratch(ACROSS, padded * size);
    float* values_across = scratch(VALUES, padded * size);
    float* queries = scratch(QUERY_TILE, QUERIES * wide);
    float* scores = scratch(SCORES, QUERIES * score_row);
    float* mixed = scratch(MIXED, QUERIES * wide);
    float* grad_keys = scratch(GRAD_KEYS, length * wide);
    float* grad_values = scratch(GRAD_VALUES, length * wide);
    float* grad_scores = scratch(GRAD_SCORES, QUERIES * score_row);
    float* grad_mixed = scratch(GRADS, QUERIES * wide);
    const Strided over_keys{grad_scores, score_row, 1}, over_queries{grad_scores, 1, score_row};
    copy_rows(k + k_at, k_row, length, size, wide, 1.0f, keys);
    copy_across(k + k_at, k_row, length, size, keys_across);
    copy_across(v + k_at, k_row, length, size, values_across);
    std::fill(grad_keys, grad_keys + length * wide, 0.0f);
    std::fill(grad_values, grad_values + length * wide, 0.0f);
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++)
      for (int64_t begin = 0; begin < length; begin += QUERIES) {
        const int64_t rows = std::min(QUERIES, length - begin), seen = begin + rows, vectors = divide_up(seen, W);
        const int64_t token = first + begin, q_at = token * q_row + head * size;
        const float scale = attention_scale(size);
        copy_rows(q + q_at, q_row, rows, size, wide, scale, queries);
        copy_rows(grad + q_at, q_row, rows, size, wide, 1.0f, grad_mixed);
        product<float>(rows, vectors, size, {queries, wide, 1}, {keys_across, W, size * W}, scores, score_row, false);
        product<float>(rows, vectors, size, {grad_mixed, wide, 1}, {values_across, W, size * W}, grad_scores, score_row,
                       false);
        for (int64_t i = 0; i < rows; i++) {
          const T* mixed_row = out + q_at + i * q_row;
          const float* grad_row = grad_mixed + i * wide;
          float mean = 0;
#pragma omp simd reduction(+ : mean)
          for (int64_t j = 0; j < size; j++) mean += widen(mixed_row[j]) * grad_row[j];
          float *weights = scores + i * score_row, *slopes = grad_scores + i * score_row;
          std::fill(weights + begin + i + 1, weights + vectors * W, -INFINITY);
          for (int64_t j = 0; j < vectors * W; j += W) {
            const Vector weight = exponential(load(weights + j) - lse[(token + i) * heads + head]);
            store(weight, weights + j);
            store(weight * (load(slopes + j) - mean), slopes + j);
          }
        }
        product<float>(rows, wide / W, seen, over_keys, {keys, wide, W}, mixed, wide, false);
        write_rows(mixed, wide, rows, size, scale, grad_q + q_at, q_row);
        product<float>(seen, wide / W, rows, over_queries, {queries, wide, W}, grad_keys, wide, true);
        product<float>(seen, wide / W, rows, {scores, 1, score_row}, {grad_mixed, wide, W}, grad_values, wide, true);
      }
    write_rows(grad_keys, wide, length, size, 1.0f, grad_k + k_at, k_row);
    write_rows(grad_values, wide, length, size, 1.0f, grad_v + k_at, k_row);
  });
}

// One query for each row b of the cache, over keys 0 to positions[b]; key and value positions[b] are stored first.
// Stored keys are [rows, K, blocks, wide, W], values [rows, K, blocks, W, wide]: see `cache_shape`.
template <class T, class S>
bool decode_attention(int64_t rows, int64_t heads, int64_t kv_heads, int64_t size, int64_t blocks, const T* q,
                      const T* k, const T* v, S* store_keys, S* store_values, const int64_t* positions, T* out) {
  if (!within(positions, rows, blocks * W)) return false;
  const int64_t group = heads / kv_heads, wide = round_up(size, W);
  each(rows * kv_heads, [=](int64_t item) {
    const int64_t position = positions[item / kv_heads], count = position + 1, padded = round_up(count, W);
    const int64_t q_at = item * group * size;
    S *keys = store_keys + item * blocks * wide * W, *values = store_values + item * blocks * wide * W;
    for (int64_t i = 0; i < size; i++) {
      keys[(position / W * wide + i) * W + position % W] = narrow<S>(widen(k[item * size + i]));
      values[position * wide + i] = narrow<S>(widen(v[item * size + i]));
    }
    float* queries = scratch(QUERY_TILE, group * size);
    float* scores = scratch(SCORES, group * padded);
    float* sums = scratch(SUMS, group);
    float* mixed = scratch(MIXED, group * wide);
    copy_rows(q + q_at, size, group, size, size, attention_scale(size), queries);
    product<S>(group, padded / W, size, {queries, size, 1}, {keys, W, wide * W}, scores, padded, false);
    for (int64_t i = 0; i < group; i++) {
      float most;
      sums[i] = exponentials(scores + i * padded, count, padded / W, most);
    }
    product<S>(group, wide / W, count, {scores, padded, 1}, {values, wide, W}, mixed, wide, false);
    for (int64_t i = 0; i < group; i++)
      write_rows(mixed + i * wide, wide, 1, size, 1.0f / sums[i], out + q_at + i * size, size);
  });
  return true;
}

// logits [rows, size] -> log-probability of each target, the entropy of each row (nats), and lse for the backward.
template <class T>
bool token_logprobs(int64_t rows, int64_t size, const T* logits, const int64_t* targets, float* logprobs,
                    float* entropy, float* lse) {
  if (!within(targets, rows, size)) return false;
  each_row(rows, size, [=](int64_t row) {
    const T* x = logits + row * size;
    float most = -INFINITY, sum = 0, weighted = 0;
#pragma omp simd reduction(max : most)
    for (int64_t i = 0; i < size; i++) most = widen(x[i]) > most ? widen(x[i]) : most;
#pragma omp simd reduction(+ : sum, weighted)
    for (int64_t i = 0; i < size; i++) {
      const float below = widen(x[i]) - most, e = exponential(below);
      sum += e;
      weighted += e == 0.0f ? 0.0f : e * below;
    }
    lse[row] = most + std::log(sum);
    logprobs[row] = widen(x[targets[row]]) - lse[row];
    entropy[row] = std::log(sum) - weighted / sum;
  });
  return true;
}

template <class T>
void token_logprobs_backward(int64_t rows, int64_t size, const T* logits, const int64_t* targets, const float* lse,
                             const float* grad, T* grad_logits) {
  each_row(rows, size, [=](int64_t row) {
    const T* x = logits + row * size;
    T* to = grad_logits + row * size;
    const int64_t target = targets[row];
#pragma omp simd
    for (int64_t i = 0; i < size; i++) to[i] = narrow<T>(-grad[row] * exponential(widen(x[i]) - lse[row]));
    to[target] = narrow<T>(grad[row] * (1.0f - exponential(widen(x[target]) - lse[row])));
  });
}

}  // namespace

// -------------------------------------------------------------------------------------------- what the library exports

#define EXPORT(name)                                \
  decltype(&name<float>) name##_f32 = &name<float>; \
  decltype(&name<BFloat16>) name##_bf16 = &name<BFloat16>;

#define EXPORT_WITH_STORE(name, suffix, T)                           \
  decltype(&name<T, float>) name##_##suffix##_f32 = &name<T, float>; \
  decltype(&name<T, BFloat16>) name##_##suffix##_bf16 = &name<T, BFloat16>;

extern "C" {

int64_t lanes() { return W; }

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
EXPORT_WITH_STORE(decode_attention, f32, float)
EXPORT_WITH_STORE(decode_attention, bf16, BFloat16)

}  // extern "C"
