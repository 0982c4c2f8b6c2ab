// Decoding: the next token of many sequences, through all the layers of a decoder in one call.
//
// S is how weights and activations between products are stored, C how keys and values are: as S, or in 8 bits, int8_t.
// The residual stream, scores and sums are fp32. A product reads its weights once for all rows at hand. Rows are cut into blocks, one a thread, which then never
// wait for each other; where there are few rows or the weights are too large for the caches, all threads work on one
// block and share out the columns instead. Either way the numbers of a row are the same, and do not depend on others.

struct Layer {
  const float *attention_norm, *q_norm, *k_norm, *mlp_norm, *qkv_bias;  // q_norm, k_norm, qkv_bias: may be null
  const void *qkv, *out, *gate_up, *down;                               // see `multiply`
};

struct Decoder {
  int64_t layers, size, heads, kv_heads, head_size, inner, vocabulary, positions;
  int64_t rows, blocks;  // of the cache: keys and values [layers, rows, K, blocks], see `Blocks`
  const Layer* layer;
  const void *embedding, *head;  // [vocabulary, size]; as in `multiply`
  const float *norm, *cos, *sin;
  void *keys, *values;
  double eps;
};

// Row i continues sequence rows[i] of the cache with token ids[i] at positions[i], counted with the prefix of its
// sequence: keys and then values [layers, K, blocks] of prefix_lengths[i] tokens.
struct Batch {
  int64_t count;
  const int64_t *rows, *ids, *positions, *prefix_lengths;
  void* const* prefixes;
};

template <class C>
constexpr bool EIGHT = std::is_same_v<C, int8_t>;

// Keys or values of a sequence and a head: blocks of W tokens one after the other, `size` numbers a token, a whole number
// of vectors. Keys are [size / PAIR, W, PAIR], values [W, size]. In 8 bits, what each token's are to be multiplied by
// follows: [W] in fp32.
template <class C>
struct Blocks {
  C* data;
  int64_t count, size;

  static int64_t numbers(int64_t size) { return size * W + (EIGHT<C> ? W * sizeof(float) : 0); }
  C* block(int64_t i) const { return data + i * numbers(size); }
  float* scales(int64_t i) const { return reinterpret_cast<float*>(block(i) + size * W); }
};

// Asks for memory that is read soon. Into the second cache: there are few places for lines on their way to the first,
// and those that are waited for need them. Inline, for gcc drops calls of a function that does nothing else.
__attribute__((always_inline)) inline void prefetch(const void* data, int64_t bytes) {
  for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(static_cast<const char*>(data) + at, 0, 2);
}

constexpr int64_t AHEAD = 64 << 10;  // bytes; what is asked for earlier may be gone before it is used

// Called when block i of what comes before is read: so memory and arithmetic go on side by side, little by little. The
// hardware foresees too little of pieces as short as these.
template <class C>
inline void prefetch(Blocks<C> next, int64_t i) {
  const int64_t bytes = next.numbers(next.size) * sizeof(C);
  if (i < std::min(next.count, divide_up(AHEAD, bytes))) prefetch(next.block(i), bytes);
}

// Writes numbers `step` apart in 8 bits, the largest as 127 or -127. Returns what they are to be multiplied by.
template <class T>
float to_eight(const T* from, int64_t size, int8_t* to, int64_t step) {
  float most = 0;
  for (int64_t j = 0; j < size; j++) most = std::max(most, std::abs(widen(from[j])));
  const float inverse = most > 0 ? 127.0f / most : 0.0f;
  for (int64_t j = 0; j < size; j++)
    to[j * step] = int8_t(bits<int32_t>(widen(from[j]) * inverse + 12582912.0f));  // as in `exponential`: to nearest
  return most / 127.0f;
}

// Writes the key of a token: its numbers are W lanes apart.
template <class T, class C>
void put_key(const T* key, int64_t size, Blocks<C> keys, int64_t at) {
  auto* to = const_cast<Lane<C>*>(lanes_of(keys.block(at / W))) + at % W;
  if constexpr (EIGHT<C>) keys.scales(at / W)[at % W] = to_eight(key, size, to, W);
  else for (int64_t j = 0; j < size / PAIR<C>; j++) to[j * W] = lanes_of(key)[j];
}

template <class T, class C>
void put_value(const T* value, int64_t size, Blocks<C> values, int64_t at) {
  C* to = values.block(at / W) + at % W * values.size;
  if constexpr (EIGHT<C>) values.scales(at / W)[at % W] = to_eight(value, size, to, 1);
  else copy_rows(value, size, 1, size, size, 1.0f, to);
}

// scores[rows, W] = a[rows, steps] keys[steps, W]. Sums are in four parts, whatever the number of rows.
template <int R, class A, class L>
inline void score_tile(int64_t steps, const A* a, int64_t a_row, const L* keys, float* scores, int64_t score_row) {
  Vector sums[R][4];
  for (int i = 0; i < R; i++)
    for (int part = 0; part < 4; part++) sums[i][part] = Vector{};
  int64_t k = 0;
  for (; k + 4 <= steps; k += 4)
    for (int part = 0; part < 4; part++) {
      const auto right = load(keys + (k + part) * W);
      for (int i = 0; i < R; i++) sums[i][part] = multiply_add(sums[i][part], a[i * a_row + k + part], right);
    }
  for (int part = 0; part < 3; part++)
    if (k + part < steps) {
      const auto right = load(keys + (k + part) * W);
      for (int i = 0; i < R; i++) sums[i][part] = multiply_add(sums[i][part], a[i * a_row + k + part], right);
    }
  for (int i = 0; i < R; i++) store((sums[i][0] + sums[i][1]) + (sums[i][2] + sums[i][3]), scores + i * score_row);
}

// Multiplies a vector of every row.
inline void scale(int64_t rows, float* x, int64_t x_row, const float* by) {
  for (int64_t i = 0; i < rows; i++) store(load(x + i * x_row) * load(by), x + i * x_row);
}

// scores[rows, blocks * W] of queries [rows, size]: a block of keys [size / PAIR, W, PAIR] is read once and in order.
template <class C>
void score(int64_t rows, int64_t size, const Left<C>* queries, Blocks<C> keys, Blocks<C> next, float* scores,
           int64_t score_row) {
  const int64_t steps = size / PAIR<C>;
  for (int64_t block = 0; block < keys.count; block++, scores += W) {
    prefetch(next, block);
    const auto* a = lanes_of(queries);
    const auto* right = lanes_of(keys.block(block));
    int64_t i = 0;
    for (; i + 4 <= rows; i += 4) score_tile<4>(steps, a + i * steps, steps, right, scores + i * score_row, score_row);
    const auto* left = a + i * steps;
    float* rest = scores + i * score_row;
    switch (rows - i) {
      case 1: score_tile<1>(steps, left, steps, right, rest, score_row); break;
      case 2: score_tile<2>(steps, left, steps, right, rest, score_row); break;
      case 3: score_tile<3>(steps, left, steps, right, rest, score_row);
    }
    if constexpr (EIGHT<C>) scale(rows, scores, score_row, keys.scales(block));
  }
}

// out[rows, size] += weights[rows, count] values of `count` tokens. In 8 bits, the weights are not what they were.
template <class C>
void mix(int64_t rows, int64_t count, float* weights, int64_t weight_row, Blocks<C> values, Blocks<C> next, float* out) {
  for (int64_t block = 0; block < values.count; block++) {
    prefetch(next, block);
    const int64_t first = block * W;
    if constexpr (EIGHT<C>) scale(rows, weights + first, weight_row, values.scales(block));
    product<float, C>(rows, values.size / W, std::min<int64_t>(W, count - first), {weights + first, weight_row, 1},
                      {values.block(block), values.size, W}, out, values.size, true);
  }
}

constexpr int64_t RUN = 16;           // rows at most that attend to a shared prefix together
constexpr int64_t BLOCK = 128;        // rows at most that go through the layers together
constexpr int64_t TILE = 256;         // rows at most that go through an MLP together, and prompt tokens of a block
constexpr int64_t COLUMNS = 8;        // vectors of columns that one thread takes at a time
constexpr int64_t FEW = 32;           // rows at most for which reading the weights is much of a product
constexpr int64_t MANY = 4 * TILE_ROWS;  // rows from which it is worth while to widen weights beforehand
constexpr int64_t LARGE = 16 << 20;   // bytes of weights that the caches do not hold

// out[rows, outputs] (+)= a[rows, depth] weights^T. The weights are [outputs / W, depth / PAIR, W, PAIR]; rows of out
// have out_row numbers, a whole number of vectors. Weights that a product would widen once a tile are widened once and
// for all rows where there are many: the numbers are the same.
template <class S>
void multiply(int64_t rows, int64_t outputs, int64_t depth, const Left<S>* a, const void* weights, float* out,
              int64_t out_row, bool add) {
  const int64_t steps = depth / PAIR<S>, vectors = divide_up(outputs, W);
  const auto* left = lanes_of(a);
  const auto* right = static_cast<const Lane<S>*>(weights);
  each(divide_up(vectors, COLUMNS), [=](int64_t chunk) {
    const int64_t first = chunk * COLUMNS, count = std::min(COLUMNS, vectors - first);
    if constexpr (!std::is_same_v<Lane<S>, Lane<Left<S>>>) {
      if (rows >= MANY) {
        float* widened = scratch(WEIGHTS, TILE_VECTORS * steps * W);
        for (int64_t at = 0; at < count; at += TILE_VECTORS) {
          const int64_t here = std::min<int64_t>(TILE_VECTORS, count - at);
          for (int64_t i = 0; i < here * steps; i++)
            store(load(right + ((first + at) * steps + i) * W), widened + i * W);
          product<float, float>(rows, here, steps, {left, steps, 1}, {widened, W, steps * W},
                                out + (first + at) * W, out_row, add);
        }
        return;
      }
    }
    product<Lane<Left<S>>, Lane<S>>(rows, count, steps, {left, steps, 1},
                                    {right + first * steps * W, W, steps * W, 1 < rows && rows <= FEW},
                                    out + first * W, out_row, add);
  });
}

struct Run {  // rows of a batch that follow one another and share a prefix
  int64_t first, count;
};

std::vector<Run> runs_of(const Batch& batch, int64_t first, int64_t last) {
  std::vector<Run> runs;
  for (int64_t i = first; i < last; i++) {
    const bool joins = !runs.empty() && batch.prefixes[i] == batch.prefixes[i - 1] && runs.back().count < RUN;
    if (joins) runs.back().count++;
    else runs.push_back({i, 1});
  }
  return runs;
}

// One key head of a run of rows: stores their new keys and values, then mixes for the query heads of its group.
// qkv and mixed are of the run's first row.
template <class S, class C>
void attend(const Decoder& d, int64_t index, const Batch& batch, Run run, int64_t kv_head, const float* qkv,
            int64_t qkv_row, Left<S>* mixed) {
  const Layer& layer = d.layer[index];
  const int64_t group = d.heads / d.kv_heads, size = d.head_size, wide = round_up(size, W), queries = run.count * group;
  const int64_t prefix = batch.prefix_lengths[run.first], prefix_blocks = divide_up(prefix, W), shared = prefix_blocks * W;
  const int64_t numbers = Blocks<C>::numbers(wide);
  const auto of_prefix = [&](int64_t part) -> Blocks<C> {
    return {static_cast<C*>(batch.prefixes[run.first]) + part * prefix_blocks * numbers, prefix_blocks, wide};
  };
  const int64_t head_at = index * d.kv_heads + kv_head;
  const Blocks<C> prefix_keys = of_prefix(head_at), prefix_values = of_prefix(d.layers * d.kv_heads + head_at);
  const Blocks<C> next_keys = of_prefix(head_at + 1);  // where the same rows' next head begins
  const auto length = [&](int64_t r) { return batch.positions[run.first + r] - prefix + 1; };  // without the prefix
  const auto own = [&](void* store, int64_t r) -> Blocks<C> {
    const int64_t at = ((index * d.rows + batch.rows[run.first + r]) * d.kv_heads + kv_head) * d.blocks * numbers;
    return {static_cast<C*>(store) + at, divide_up(length(r), W), wide};
  };
  int64_t longest = 0;
  for (int64_t r = 0; r < run.count; r++) {
    longest = std::max(longest, length(r));
    const int64_t at = length(r) - 1;  // where the new ones are written
    prefetch(own(d.keys, r).block(at / W), numbers * sizeof(C));
    prefetch(own(d.values, r).block(at / W) + at % W * wide, wide * sizeof(C));
  }
  const int64_t score_row = shared + round_up(longest, W);
  auto* q = scratch<Left<C>>(QUERY_TILE, queries * size);
  auto* turned = scratch<std::conditional_t<EIGHT<C>, float, C>>(KEYS, size);
  float* scores = scratch(SCORES, queries * score_row);
  float* sums = scratch(MIXED, queries * wide);
  for (int64_t r = 0; r < run.count; r++) {
    const int64_t position = batch.positions[run.first + r], at = position - prefix;
    const float *cos = d.cos + position * size, *sin = d.sin + position * size;
    const float *from = qkv + r * qkv_row, *key = from + (d.heads + kv_head) * size, *value = key + d.kv_heads * size;
    for (int64_t j = 0; j < group; j++)
      norm_rotate(from + (kv_head * group + j) * size, layer.q_norm, d.eps, cos, sin, size, attention_scale(size),
                  q + (r * group + j) * size);
    norm_rotate(key, layer.k_norm, d.eps, cos, sin, size, 1.0f, turned);
    put_key(turned, size, own(d.keys, r), at);
    put_value(value, size, own(d.values, r), at);
  }
  score(queries, size, q, prefix_keys, own(d.keys, 0), scores, score_row);
  for (int64_t r = 0; r < run.count; r++) {
    const Blocks<C> keys = own(d.keys, r), next = r + 1 < run.count ? own(d.keys, r + 1) : prefix_values;
    float* of_row = scores + r * group * score_row;
    score(group, size, q + r * group * size, keys, next, of_row + shared, score_row);
    for (int64_t j = 0; j < group; j++, of_row += score_row) {
      std::fill(of_row + prefix, of_row + shared, -INFINITY);
      const int64_t vectors = prefix_keys.count + keys.count;
      float most;
      const float sum = exponentials(of_row, shared + length(r), vectors, most);
      for (int64_t k = 0; k < vectors; k++) store(load(of_row + k * W) / sum, of_row + k * W);
    }
  }
  std::fill(sums, sums + queries * wide, 0.0f);
  mix(queries, prefix, scores, score_row, prefix_values, own(d.values, 0), sums);
  for (int64_t r = 0; r < run.count; r++) {
    const Blocks<C> next = r + 1 < run.count ? own(d.values, r + 1) : next_keys;
    float* of_row = sums + r * group * wide;
    mix(group, length(r), scores + r * group * score_row + shared, score_row, own(d.values, r), next, of_row);
    write_rows(of_row, wide, group, size, 1.0f, mixed + (r * d.heads + kv_head * group) * size, size);
  }
}

inline int64_t residual_row(const Decoder& d) { return round_up(d.size, W); }

// x [rows, residual_row] of tokens ids.
template <class S>
float* embed(const Decoder& d, int64_t rows, const int64_t* ids) {
  const int64_t x_row = residual_row(d);
  float* x = scratch(RESIDUAL, rows * x_row);
  for (int64_t i = 0; i < rows; i++)
    copy_rows(static_cast<const S*>(d.embedding) + ids[i] * d.size, d.size, 1, d.size, x_row, 1.0f, x + i * x_row);
  return x;
}

// x through all the layers and the last norm: [rows, size]. attend(index, qkv, qkv_row, mixed) mixes the rows in a layer:
// qkv [rows, qkv_row] fp32 with q, k, v of all heads in turn, before norms and rotation; mixed [rows, heads, head_size].
// After it the last layer goes on with the rows of `ends` alone, in rising order, unless it is empty.
template <class S, class Attend>
Left<S>* through_layers(const Decoder& d, int64_t rows, float* x, const Attend& attend,
                        const std::vector<int64_t>& ends = {}) {
  const int64_t mixed_size = d.heads * d.head_size, qkv_size = mixed_size + 2 * d.kv_heads * d.head_size;
  const int64_t qkv_row = round_up(qkv_size, W), gate_row = round_up(2 * d.inner, W), x_row = residual_row(d);
  const int64_t tile = std::min(rows, TILE);
  float* wide = scratch(WIDE, std::max(rows * qkv_row, tile * gate_row));
  auto* narrowed = scratch<Left<S>>(NORMED, std::max(rows * std::max(d.size, mixed_size), tile * (d.size + d.inner)));
  const auto norm = [&](const float* weight, int64_t first, int64_t count) {
    each_row(count, d.size, [=](int64_t i) {
      rms_norm_row(x + (first + i) * x_row, weight, d.size, d.eps, narrowed + i * d.size);
    });
  };
  for (int64_t index = 0; index < d.layers; index++) {
    const Layer& layer = d.layer[index];
    norm(layer.attention_norm, 0, rows);
    multiply<S>(rows, qkv_size, d.size, narrowed, layer.qkv, wide, qkv_row, false);
    if (layer.qkv_bias)
      for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < qkv_size; j++) wide[i * qkv_row + j] += layer.qkv_bias[j];
    attend(index, wide, qkv_row, narrowed);
    if (index == d.layers - 1 && !ends.empty()) {
      rows = ends.size();
      for (int64_t i = 0; i < rows; i++) {
        std::copy_n(narrowed + ends[i] * mixed_size, mixed_size, narrowed + i * mixed_size);
        std::copy_n(x + ends[i] * x_row, x_row, x + i * x_row);
      }
    }
    multiply<S>(rows, d.size, mixed_size, narrowed, layer.out, x, x_row, true);
    for (int64_t first = 0; first < rows; first += tile) {
      const int64_t count = std::min(tile, rows - first);
      auto* hidden = narrowed + tile * d.size;
      norm(layer.mlp_norm, first, count);
      multiply<S>(count, 2 * d.inner, d.size, narrowed, layer.gate_up, wide, gate_row, false);
      each_row(count, d.inner, [=](int64_t i) {
        silu_mul_row(wide + i * gate_row, wide + i * gate_row + d.inner, d.inner, hidden + i * d.inner);
      });
      multiply<S>(count, d.size, d.inner, hidden, layer.down, x + first * x_row, x_row, true);
    }
  }
  norm(d.norm, 0, rows);
  return narrowed;
}

template <class S>
void logits_of(const Decoder& d, int64_t rows, const Left<S>* normed, float* logits) {
  multiply<S>(rows, d.vocabulary, d.size, normed, d.head, logits, round_up(d.vocabulary, W), false);
}

// Whether the caches cannot hold the weights, so that reading them costs more than sharing out the work.
template <class S>
bool large(const Decoder& d) {
  const int64_t layer_size = (2 * d.heads + 2 * d.kv_heads) * d.head_size + 3 * d.inner;
  return d.layers * layer_size * d.size * int64_t(sizeof(S)) > LARGE;
}

// Logits [rows, vocabulary rounded up to W] of the next token of rows [first, last) of a batch.
template <class S, class C>
void next(const Decoder& d, const Batch& batch, int64_t first, int64_t last, float* logits) {
  const auto runs = runs_of(batch, first, last);
  const auto mix = [&](int64_t index, const float* qkv, int64_t qkv_row, Left<S>* mixed) {
    each(runs.size() * d.kv_heads, [&](int64_t item) {
      const Run run = runs[item / d.kv_heads];
      const int64_t at = run.first - first;
      attend<S, C>(d, index, batch, run, item % d.kv_heads, qkv + at * qkv_row, qkv_row,
                mixed + at * d.heads * d.head_size);
    });
  };
  const auto* normed = through_layers<S>(d, last - first, embed<S>(d, last - first, batch.ids + first), mix);
  logits_of<S>(d, last - first, normed, logits);
}

// Whether each row of a batch has room for so many tokens.
bool fits(const Decoder& d, const Batch& batch, const int64_t* tokens) {
  if (!within(batch.ids, batch.count, d.vocabulary) || !within(batch.rows, batch.count, d.rows)) return false;
  for (int64_t i = 0; i < batch.count; i++) {
    const int64_t end = batch.positions[i] + (tokens ? tokens[i] : 1), prefix = batch.prefix_lengths[i];
    if (batch.positions[i] < std::max<int64_t>(prefix, 0) || end > d.positions || end - prefix > d.blocks * W) return false;
  }
  return true;
}

// work(first, last) for the rows that go through the layers together.
template <class S, class Work>
void each_block(const Decoder& d, int64_t rows, int64_t threads, const Work& work) {
  // Half of the few are a thread's: with more, waiting for each other costs more than reading all weights twice.
  const bool together = 2 * rows < FEW * threads || large<S>(d);
  const int64_t step = together ? rows : std::min(BLOCK, divide_up(rows, threads));
  each(divide_up(rows, step), [&](int64_t block) { work(block * step, std::min(rows, (block + 1) * step)); });
}

// The next token of every row of a batch: logits [count, vocabulary rounded up to W].
template <class S, class C>
bool decode(const Decoder* decoder, const Batch* batch, int64_t threads, float* logits) {
  if (!fits(*decoder, *batch, nullptr)) return false;
  each_block<S>(*decoder, batch->count, threads, [&](int64_t first, int64_t last) {
    next<S, C>(*decoder, *batch, first, last, logits + first * round_up(decoder->vocabulary, W));
  });
  return true;
}

// Whole prompts, sequence s of tokens offsets[s] to offsets[s + 1]: their keys and values, as `Batch` has a prefix, and
// the logits after their last tokens, [sequences, vocabulary rounded up to W].
template <class S, class C>
bool prefill(const Decoder* decoder, int64_t sequences, const int64_t* offsets, const int64_t* ids, void* const* prefixes,
             int64_t threads, float* logits) {
  const Decoder& d = *decoder;
  if (!within(ids, offsets[sequences], d.vocabulary)) return false;
  const bool together = large<S>(d);
  const int64_t most = together ? 8 * TILE : TILE, share = together ? most : divide_up(offsets[sequences], threads);
  std::vector<int64_t> blocks{0};  // sequences that go through the layers together: each block's first, and the end
  for (int64_t s = 0; s < sequences; s++) {
    if (offsets[s + 1] - offsets[s] > d.positions) return false;
    const int64_t start = offsets[blocks.back()];
    if (s > blocks.back() && (offsets[s + 1] - start > most || offsets[s] - start >= share)) blocks.push_back(s);
  }
  blocks.push_back(sequences);
  const int64_t size = d.head_size, wide = round_up(size, W);
  each(blocks.size() - 1, [&](int64_t block) {
    const int64_t first = blocks[block], count = blocks[block + 1] - first, start = offsets[first];
    const int64_t tokens = offsets[first + count] - start;
    std::vector<int64_t> own(offsets + first, offsets + first + count + 1), positions(tokens);
    std::vector<int64_t> trees(count + 1), ends(count);
    for (int64_t s = 0; s <= count; s++) own[s] -= start, trees[s] = s;
    for (int64_t s = 0; s < count; s++) {
      for (int64_t i = own[s]; i < own[s + 1]; i++) positions[i] = i - own[s];
      ends[s] = own[s + 1] - 1;
    }
    S* q = scratch<S>(PROMPT, tokens * (d.heads + 2 * d.kv_heads) * size);
    S *k = q + tokens * d.heads * size, *v = k + tokens * d.kv_heads * size;
    float* lse = scratch(SUMS, tokens * d.heads);
    const auto mix = [&](int64_t index, const float* qkv, int64_t qkv_row, Left<S>* mixed) {
      const Layer& layer = d.layer[index];
      each_row(tokens, qkv_row, [&](int64_t i) {
        const float *from = qkv + i * qkv_row, *cos = d.cos + positions[i] * size, *sin = d.sin + positions[i] * size;
        for (int64_t head = 0; head < d.heads; head++, from += size)
          norm_rotate(from, layer.q_norm, d.eps, cos, sin, size, 1.0f, q + (i * d.heads + head) * size);
        for (int64_t head = 0; head < d.kv_heads; head++, from += size)
          norm_rotate(from, layer.k_norm, d.eps, cos, sin, size, 1.0f, k + (i * d.kv_heads + head) * size);
        write_rows(from, size, d.kv_heads, size, 1.0f, v + i * d.kv_heads * size, size);
      });
      packed_attention(count, trees.data(), own.data(), d.heads, d.kv_heads, size, q, k, v, mixed, lse);
      each(count * d.kv_heads, [&](int64_t item) {
        const int64_t s = item / d.kv_heads, head = item % d.kv_heads, length = own[s + 1] - own[s];
        const int64_t blocks = divide_up(length, W), part = blocks * Blocks<C>::numbers(wide);
        const int64_t row = d.kv_heads * size, at = own[s] * row + head * size;
        C* data = static_cast<C*>(prefixes[first + s]) + (index * d.kv_heads + head) * part;
        const Blocks<C> keys{data, blocks, wide}, values{data + d.layers * d.kv_heads * part, blocks, wide};
        for (int64_t i = 0; i < length; i++) {
          put_key(k + at + i * row, size, keys, i);
          put_value(v + at + i * row, size, values, i);
        }
      });
    };
    const auto* normed = through_layers<S>(d, tokens, embed<S>(d, tokens, ids + start), mix, ends);
    logits_of<S>(d, count, normed, logits + first * round_up(d.vocabulary, W));
  });
  return true;
}

struct Drawn {
  int64_t id;
  float logprob;
};

// A token by inverse transform sampling from softmax(logits / temperature) with a number in [0, 1), and its
// log-probability. Temperature 0: the most likely token, and its log-probability at temperature 1.
Drawn draw_one(int64_t size, const float* logits, float temperature, double uniform) {
  const float inverse = temperature == 0 ? 1.0f : 1.0f / temperature;
  const int64_t vectors = divide_up(size, W);
  float* weights = scratch(SCORES, vectors * W);
  for (int64_t i = 0; i < size; i++) weights[i] = logits[i] * inverse;
  float most;
  const float sum = exponentials(weights, size, vectors, most);
  int64_t chosen = -1;
  if (temperature != 0) {
    double left = uniform * sum;
    int64_t at = 0;
    for (; at < vectors - 1; at++) {  // the vector in which the running sum passes the target, then the number in it
      const float here = across(load(weights + at * W), [](float a, float b) { return a + b; });
      if (left < here) break;
      left -= here;
    }
    for (int64_t i = at * W; i < size; i++) {
      if (weights[i] == 0) continue;
      chosen = i;
      left -= weights[i];
      if (left < 0) break;
    }
  }
  if (chosen < 0) chosen = std::max_element(logits, logits + size) - logits;  // or rounding has passed every number
  return {chosen, logits[chosen] * inverse - most - std::log(sum)};
}

// Drawing takes as long for each logit as other work for so many numbers.
constexpr int64_t DRAWN = 8;

void draw(int64_t rows, int64_t size, int64_t row_size, const float* logits, const float* temperature,
          const double* uniform, int64_t* ids, float* logprobs) {
  each_row(rows, DRAWN * size, [=](int64_t row) {
    const Drawn drawn = draw_one(size, logits + row * row_size, temperature[row], uniform[row]);
    ids[row] = drawn.id, logprobs[row] = drawn.logprob;
  });
}

uint64_t mix_bits(uint64_t x) {  // splitmix64 (Steele et al. 2014), as engines/sampling.py has it
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

// Of each row of a batch: how its tokens are drawn, the tokens that it is forced to take first, and when it stops: after
// `limit` tokens, or when it draws one that `ends` has or its own `close`. All stop once `halt` is not 0.
struct Stretch {
  int64_t steps;  // no limit is above
  const float* temperature;
  const uint64_t* streams;   // of random numbers
  const int64_t* counters;   // which of them is next
  const int64_t *limits, *closes;
  const int64_t* forced;     // [count, steps], below 0 where a token is drawn
  const bool* ends;          // [vocabulary]
  const volatile int32_t* halt;
  int64_t *made, *ids;       // how many tokens each row took, at least one; [count, steps]
  float* logprobs;           // [count, steps], 0 of forced tokens
};

// Tokens of every row of a batch, one after the other, until it stops. Rows are decoded only as long as they go on, and
// those of one block do not wait for those of another.
template <class S, class C>
bool sample(const Decoder* decoder, const Batch* whole, int64_t threads, const Stretch* stretch) {
  const Decoder& d = *decoder;
  const Stretch& s = *stretch;
  if (!fits(d, *whole, s.limits)) return false;
  const int64_t logit_row = round_up(d.vocabulary, W);
  each_block<S>(d, whole->count, threads, [&](int64_t first, int64_t last) {
    const auto part = [=](const auto* column) { return std::vector(column + first, column + last); };
    auto rows = part(whole->rows), ids = part(whole->ids), positions = part(whole->positions);
    auto prefix_lengths = part(whole->prefix_lengths);
    auto prefixes = part(whole->prefixes);
    std::vector<int64_t> going(last - first);  // which rows of the batch they are
    for (int64_t i = first; i < last; i++) going[i - first] = i;
    int64_t count = going.size();
    float* logits = scratch(LOGITS, count * logit_row);
    for (int64_t step = 0; count > 0; step++) {
      const Batch batch{count, rows.data(), ids.data(), positions.data(), prefix_lengths.data(), prefixes.data()};
      next<S, C>(d, batch, 0, count, logits);
      each_row(count, DRAWN * d.vocabulary, [&](int64_t i) {
        const int64_t row = going[i], at = row * s.steps + step;
        const double uniform = double(mix_bits(s.streams[row] ^ uint64_t(s.counters[row] + step)) >> 11) * 0x1p-53;
        const Drawn drawn = s.forced[at] >= 0
                                ? Drawn{s.forced[at], 0.0f}
                                : draw_one(d.vocabulary, logits + i * logit_row, s.temperature[row], uniform);
        s.ids[at] = drawn.id, s.logprobs[at] = drawn.logprob;
      });
      const bool halt = *s.halt != 0;
      int64_t kept = 0;
      for (int64_t i = 0; i < count; i++) {
        const int64_t row = going[i], at = row * s.steps + step, id = s.ids[at];
        s.made[row] = step + 1;
        const bool over = s.forced[at] < 0 && (s.ends[id] || id == s.closes[row]);
        if (halt || over || step + 1 >= s.limits[row]) continue;
        going[kept] = row, rows[kept] = rows[i], ids[kept] = id, positions[kept] = positions[i] + 1;
        prefix_lengths[kept] = prefix_lengths[i], prefixes[kept] = prefixes[i];
        kept++;
      }
      count = kept;
    }
  });
  return true;
}
