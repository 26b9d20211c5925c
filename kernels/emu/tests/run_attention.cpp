// Causal attention over 150 tokens in two heads that share keys, by tiles of 64 and of 16 rows (see
// run.h).
#include "common/attention.cu"
#include "run.h"

static const int TOKENS = 150, HEADS = 2, DIM = 64;

// Tables as grt_attention.h describes them: items of `height` packed rows, key blocks, one span.
static void fill_table(Tensor<int>& table, int items, int height) {
    int blocks = items * ATTN_ITEM_WORDS, num_blocks = (TOKENS + ATTN_BLOCK - 1) / ATTN_BLOCK;
    for (int i = 0; i < items; i++) {
        int left = TOKENS * HEADS - i * height;
        int words[ATTN_ITEM_WORDS] = {0, i * height, left < height ? left : height, 1, 1, blocks};
        memcpy(table.data + i * ATTN_ITEM_WORDS, words, sizeof words);
    }
    for (int b = 0; b < num_blocks; b++) table.data[blocks + b] = blocks + num_blocks;
    table.data[blocks + num_blocks] = TOKENS;
    table.data[blocks + num_blocks + 1] = 0;
}

static void run_tiles(Outcome& o, const char* kernel, int height, size_t shared) {
    int items = (TOKENS * HEADS + height - 1) / height;
    Tensor<grt_bf16> q((size_t)TOKENS * HEADS * DIM), out(q.size), k((size_t)TOKENS * DIM), v(k.size);
    Tensor<float> lse((size_t)TOKENS * HEADS);
    Tensor<int> table((size_t)(items * ATTN_ITEM_WORDS + (TOKENS + ATTN_BLOCK - 1) / ATTN_BLOCK + 2));
    fill(q, 1);
    fill(k, 100000);
    fill(v, 200000);
    fill_table(table, items, height);
    AttnFwdArgs a = {};
    a.q = q.data;
    a.k = k.data;
    a.v = v.data;
    a.o = out.data;
    a.lse = lse.data;
    a.table = table.data;
    a.heads = HEADS;
    a.kv_heads = 1;
    a.head_dim = DIM;
    a.scale_log2 = 0.125f * 1.44269504f;
    o.launch(kernel, {(uint32_t)items}, ATTN_THREADS, shared, a,
             {q.range(), k.range(), v.range(), out.range(), lse.range(), table.range()});
    o.add(out);
    o.add(lse);
}

static void run(Outcome& o) {
    const size_t keys = 2 * ATTN_STAGES * sizeof(grt_tile<ATTN_BLOCK, DIM>);
    run_tiles(o, "attention_fwd_m64_d64_bf16", 64, keys + sizeof(attn_tall_rest<1>));
    run_tiles(o, "attention_fwd_m16_d64_bf16", 16, keys + sizeof(attn_short_rest<DIM>));
}

int main(int argc, char** argv) { return run_orders(argc, argv, run); }
