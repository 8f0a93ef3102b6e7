#include "cases.h"

namespace sotto::test {

const std::vector<Family>& families() {
  static const std::vector<Family> table{
      {"Heads",
       {
           "h{4,4/2,4/1} d{16,48,64,80,128} q17 k67 lse",
           "h2/1 d{32,96,112,144,160,176,192,208,224,240,256,512} q5 k40 lse",
           "h4/2 d{16,48,64,96,128,192,256,512} q33 k129 causal in={e4m3,i8/i8/e4m3}",
           "h4/2 d{192/128,96/64,64/128} q40 k72 in={f32,bf16,e4m3,i8/i8/e4m3} "
           "{causal,causal_br lse,window=16/0}",
           "h8/{8,2,1} b2 q20 k50 in={f16,bf16/e4m3/e4m3} out=f16",
       }},
      // One small case for each of a GPU's kernels: compute-sanitizer's share of the table. Of many
      // rows there must be where one kernel is for few of them and another for the rest.
      {"Kernels",
       {
           "h2/1 d{64,96,128,192/128,256} q70 k130 in={bf16,f16,e4m3,i8/i8/e4m3} out=bf16 causal "
           "lse",
           "h2/1 d{64,128} q70 k300 in={e4m3,i8/i8/e4m3} out=bf16 plain",
           "h2/1 d128 q70 k300 in={e4m3,i8/i8/e4m3} out=bf16 {fast,fast plain}",
           "h2/1 d128 q{70,190} k2300 in=e4m3 out=bf16 "
           "{causal_br lse,window=700/30,softcap20 lse,fast}",
           "h2/1 d128 q70 k300 in={e4m3,i8/i8/e4m3} out=bf16 sq=block128 sk=block128 sv=block128",
           "b5 h16/2 d128 q130 k40 in={bf16,f16} out=bf16",
       }},
      {"Layouts",
       {
           "b2 h4/2 q33 k65 lse in={f32,bf16,f16,e4m3} {bhsd,strided,bhsd strided,}",
           "b2 h4/2 q33 k65 d{80,128/64} causal_br in={bf16,i8/i8/e4m3} {bhsd,strided} "
           "out={bf16,e4m3}",
           "b3 h4/2 q{0,1,17} k{0,1,127,128,129} lse in={f32,e4m3}",
       }},
      {"Far",
       {
           "b2 h4/2 q17 k40 far lse in={f32,bf16/e4m3/e4m3,e4m3,i8/i8/e4m3} "
           "{,bhsd,packed,paged16,batch_idx} out={f32,e4m3}",
           "b2 h4/2 d{80,128} q3 k70 far in={bf16 splits3,bf16 causal_br,i8/i8/e4m3 v_lo} "
           "out={bf16,nvfp4}",
           "b2 h4/2 q9 k20 far in=bf16 sdpa={exact,int8qk,high} rope=halves causal {,packed}",
       }},
      {"Masks",
       {
           "d32 q{1,64,129} k{17,128,300} lse "
           "{causal,causal_br,window=20/0,window=5/9,window=-1/3,window=7/-1,band=10/0,band=-1/2}",
           "b2 q127 k300 in={bf16,i8/i8/e4m3} lse "
           "{causal,causal_br,window=20/0,window=0/0,window=-1/3,window=130/-1,band=9/0,band=-1/2}",
           "b2 h4/2 q33 k70 in={f32,bf16,e4m3} {causal_br lse,} "
           "dense={bool:b:h,bool:1:1,f32:b:1,f16:1:h,bf16:1:1}",
           "b2 h4/2 q130 k260 in={f32,i8/i8/e4m3} window=64/3 lse dense={bool:b:1,f32:1:h}",
           "b2 h4/2 q33 k70 in={f32,e4m3} dense=f32:b:h softcap20 {sinks,bhsd} lse",
           "b2 h4/2 q9 k40:30 paged16 in={bf16/e4m3/e4m3,i8/i8/e4m3} dense={bool:b:h,bf16:1:1} lse",
       }},
      {"Ragged",
       {
           "b4 h4/2 q0:17:64:1 k5:0:128:300 packed lse in={f32,bf16,e4m3,i8/i8/e4m3} "
           "{causal_br,window=30/5,} {max_len,}",
           "b3 h4/2 q5:64:0 k100:64:33 padded_q padded_k lse in={bf16,e4m3} "
           "{packed,packed bhsd,bhsd,strided} {causal,causal_br}",
           "b3 h2/1 q5:70:0 k100:64:33 padded_k packed_q lse in={bf16,i8/i8/e4m3} "
           "{causal_br softcap20,sinks}",
           "b2 h2 q9:30 k40:70 packed max_len in={f32,e4m3} dense={bool:1:h,f32:b:1} {causal,}",
       }},
      {"Paged",
       {
           "b3 h4/2 paged{1,3,16,64,256} q{1,33} k70:0:300 lse {causal_br,} "
           "in={bf16,e4m3,bf16/e4m3/e4m3,i8/i8/e4m3}",
           "b3 h4/1 packed_q q1:40:7 k70:129:300 paged{1,16} in={f16,f16/i8/e4m3,e4m3} "
           "{window=50/0,causal_br sinks lse}",
           "b2 h4/2 q{1,20} k150 batch_idx {padded_k,} in={bf16,bf16/e4m3/e4m3,bf16/e4m3/bf16} "
           "{causal_br,window=64/0}",
           "b2 h4/2 q1 k2051:1000 paged64 in={bf16,bf16/i8/e4m3} splits{1,8} lse",
       }},
      {"Scales",
       {
           "b2 h4/2 q70 k130 in={e4m3,i8/i8/e4m3} {,packed,paged16,batch_idx,padded_q padded_k} "
           "{sq=tensor sk=tensor sv=tensor,sq=kv_head sk=kv_head sv=kv_head,"
           "sq=token sk=token sv=token,sq=block32 sk=block32 sv=block32,"
           "sq=token sk=block128 sv=block48}",
           "b2 h4/2 q40 k70 in={e4m3,i8/i8/e4m3} sq=broadcast sk=broadcast sv=broadcast {bhsd,}",
           "b2 h4/2 q40 k70 in=e4m3 sq=absent sk=absent sv=absent {packed,} lse",
           "b2 h4/2 q33 k90:140 paged{3,64} in={f32,bf16}/{e4m3,i8}/e4m3 "
           "{sk=token sv=token,sk=block32 sv=head,sk=tensor sv=block16}",
           "b2 h4/2 q33 k140 in=bf16/{e4m3,i8}/bf16 sk={head,token,block64} {bhsd,}",
       }},
      {"Scores",
       {
           "h4/2 q33 k100 causal lse in={f32,bf16,e4m3,i8/i8/e4m3} {softcap20,} {sinks,} "
           "{scale=0.25,}",
           "h4/1 q{1,4} k{300,1100} lse splits{2,7} in={f32,e4m3,bf16/e4m3/e4m3} "
           "{sinks,window=200/0}",
           "q64 k2100 d128 h2 in={bf16,i8/i8/e4m3} causal_br {splits3,}",
           "b2 h4/2 q40 k130 lse in={f32,e4m3,i8/i8/e4m3} data={v_bias,zeros,constant} "
           "{causal,sinks}",
           "b2 h4/2 q40 k130 lse in={f32,e4m3 db=17,i8/i8/e4m3 db=23} data=sink {causal,sinks}",
           "b2 h4/2 q40 k130 lse in={f32,bf16} data=large {causal,softcap50}",
           "q40 k130 lse in=f32 data=denormal {causal,sinks}",
           "q40 k300 in={e4m3,i8/i8/e4m3} {fast,plain,fast plain}",
       }},
      {"Outputs",
       {
           "b2 h4/2 d128 q33 k70 in={bf16,e4m3} lse {causal,sinks packed} "
           "out={bf16,f16,e4m3,groups64,groups128,groups64:ue8m0,groups128:ue8m0:col,"
           "groups64:col:pad,groups128:pad,nvfp4}",
           "b2 h2/1 d192/128 q40 k72 in={bf16,i8/i8/e4m3} window=30/0 "
           "out={e4m3,groups64:ue8m0:pad,groups128:col,nvfp4}",
           "h6/2 d48 q20 k50 in={f32,e4m3} causal out={e4m3,nvfp4} {packed,bhsd}",
           "b2 h4/1 d64 q2 k500:260 paged16 splits4 in={bf16,bf16/e4m3/e4m3} lse "
           "out={e4m3,groups64,nvfp4}",
           "b3 h4/2 d64 q0:5:33 k70:0:40 packed in=bf16 {padded_q,} "
           "out={e4m3,groups64,groups64:ue8m0:col,nvfp4}",
           "h2 d128 q40 k90 in=bf16 softcap20 out={e4m3,nvfp4} range={0.01,0.3,4,100}",
           "h2 d128 q40 k90 in={f32,e4m3 db=18} data={zeros,v_bias,sink} "
           "out={e4m3,groups64,groups128:ue8m0,nvfp4}",
           "h2 d64 q260 k40 in=bf16 out={nvfp4,groups64:col}",
       }},
      {"Smoothing",
       {
           "b2 h4/2 q40 k130 data=qk_bias in={e4m3,i8/i8/e4m3} lse {k_mean,row_bias} had=qk "
           "{softcap20,sinks causal,packed}",
           "b2 h4/2 q40 k130 data=qk_bias in=i8/i8/e4m3 lse row_bias q_mean {had=qk,} "
           "{softcap20,sinks causal,packed,padded_q padded_k}",
           "b2 h4/2 q40 k130 data=v_bias in={e4m3,bf16/e4m3/e4m3} v_mean {had=qkv,had=v_only,} "
           "{sinks causal,packed,window=20/0}",
           "h2/1 d{64,80,192/128} q40 k130 in={e4m3,i8/i8/e4m3} had={qk,qkv,v_only} causal_br",
           "b2 h2/1 q3 k130:77 paged16 in=bf16/i8/e4m3 k_mean had={qk,qkv} {sinks,softcap30} lse "
           "data=k_bias sk=token sv=token",
           "b2 h4/2 q150 k{150,400} in=i8/i8/e4m3 v_lo sv=block128 "
           "{causal,window=140/0,causal_br,}",
           "b2 h2 q40:150 k100:290 packed in={e4m3,i8/i8/e4m3} v_lo causal_br had=qkv v_mean",
           "b2 h2 q20 k100:60 {paged16,batch_idx padded_k} in=i8/i8/e4m3 row_bias q_mean causal_br",
           "b2 h4/1 q2 k600 splits3 in=bf16/e4m3/e4m3 v_mean had=qkv sinks lse data=v_bias",
           "b2 h4/1 q2 k600 splits3 in=i8/i8/e4m3 v_lo k_mean sinks lse {causal_br,window=300/0}",
       }},
      {"Recipes",
       {
           "b2 h4/2 q40 k40 {causal,} sdpa={exact,fp8,fp8-hadamard,int8qk,high} "
           "in={f32,bf16} {rope=halves,rope=interleaved,}",
           "b2 h4/2 q70 k150 in=bf16 out=bf16 causal_br lse sinks "
           "sdpa={fp8+hadamard=qkv,int8qk+v_mean,int8qk+smooth_q,int8qk+hadamard=none,"
           "fp8+hadamard=v_only,high+v_mean+hadamard=qkv,int8qk+fast+accumulation=plain,"
           "fp8-hadamard+smooth_q,int8qk+smooth_k=off}",
           "b3 h4/2 q0:30:129 k17:0:129 packed in=f16 sdpa={exact,fp8,int8qk,high} lse "
           "{rope=halves causal_br,softcap20}",
           "b2 h2/1 d80 q20 k64 in=f32 sdpa={exact,int8qk} rope={halves:32,interleaved:64} "
           "{positions,rope_full,positions rope_full} {packed,bhsd}",
           "b2 h2/1 q20:31 k64:50 padded_q padded_k in=bf16 sdpa={fp8-hadamard,int8qk} lse "
           "{rope=halves positions,sinks causal_br}",
           "b2 h4/2 q64 k256 in=f32 sdpa={int8qk,high,fp8-hadamard} lse "
           "{softcap20,sinks,causal_br} "
           "data={outliers,k_bias}",
           "b2 h4/2 q64 k256 in=f32 sdpa={int8qk,high,int8qk+smooth_q} data={qk_bias,sink}",
           "h4/2 q128 k1100 d128 in=bf16 sdpa={fp8,int8qk,high,fp8-hadamard} causal_br",
           "b2 h2/1 d192/128 q70 k140 in=bf16 sdpa={fp8,int8qk,high} window=100/0 "
           "out={bf16,e4m3,groups128,nvfp4}",
           "h2 q40 k130 in=f32 sdpa={fp8,int8qk,high} data={zeros,constant}",
           "h2 q40 k130 in=f32 sdpa={fp8 db=5,int8qk db=16,high db=16} data=large",
           "b2 h2 q33 k64 in=f32 sdpa={fp8,int8qk} dense={bool:b:1,f32:1:h} {lse,bhsd}",
       }},
  };
  return table;
}

}  // namespace sotto::test
