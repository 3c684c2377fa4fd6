BEGIN TRANSACTION;
PRAGMA application_id = 1852400236;
PRAGMA user_version = 1;
CREATE TABLE cells (
  id INTEGER PRIMARY KEY,
  variant_id INTEGER NOT NULL REFERENCES variants(id),
  task TEXT NOT NULL,
  status TEXT NOT NULL CHECK (status IN ('planned', 'done', 'failed')),
  reason TEXT NOT NULL DEFAULT '',
  seconds REAL,
  task_version INTEGER, split TEXT, data_sha256 TEXT, rows INTEGER, shots INTEGER, seed INTEGER,
  primary_metric TEXT, higher_is_better INTEGER,
  prompt_tokens_per_s REAL, output_tokens_per_s REAL, task_seconds REAL,
  file_bytes INTEGER, weights_bytes INTEGER, kv_cache_bytes INTEGER, workspace_bytes INTEGER,
  peak_rss_bytes INTEGER, peak_gpu_bytes INTEGER,
  bench TEXT,
  UNIQUE (variant_id, task));
INSERT INTO "cells" VALUES(1,1,'boolq','done','',0.166736078,1,'validation','3402d0e3db59c533c744d9275837c600e8714c410a9f852034ac2b3844b48744',40,0,0,'accuracy',1,2.23748606963671736584e+04,0.0,0.106155814,9908624,9909248,1966080,3563104,27955200,0,NULL);
INSERT INTO "cells" VALUES(5,1,'bench','done','',0.484481443,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,9908624,9909248,393216,1824992,23089152,0,'[{"bandwidth_bytes_per_s":30323528288.770184,"bandwidth_fraction":null,"batch":1,"bits_per_weight":16.0097461351533,"dense_ops_per_s":442606298539.56134,"device":"cpu/avx512","int8_ops_per_s":927619174980.0715,"latency_ms":{"mean":6.132421,"p50":6.217554,"p90":6.6026788000000005,"p95":6.6508194000000005,"p99":6.68933188},"latency_of":"prompt","load_s":0.000485622,"memory_bytes":{"file":9908624,"kv_cache":393216,"peak_gpu":0,"peak_rss":23089152,"weights":9909248,"workspace":1824992},"model":"llama-mini","parameters":4951296,"peak_fraction":0.4204879419786848,"peak_rss_bytes":{"load":11280384,"test":23089152},"test":"pp128","threads":2,"tokens_per_s":{"mean":21016.26319620771,"sd":2155.8280160592312},"version":"0.1.0"},{"bandwidth_bytes_per_s":30323528288.770184,"bandwidth_fraction":null,"batch":1,"bits_per_weight":16.0097461351533,"dense_ops_per_s":442606298539.56134,"device":"cpu/avx512","int8_ops_per_s":927619174980.0715,"latency_ms":{"mean":0.150575875,"p50":0.14044850000000003,"p90":0.17581150000000006,"p95":0.19475749999999997,"p99":0.21802339999999976},"latency_of":"token","load_s":0.000485622,"memory_bytes":{"file":9908624,"kv_cache":98304,"peak_gpu":0,"peak_rss":23089152,"weights":9909248,"workspace":125760},"model":"llama-mini","parameters":4951296,"peak_fraction":null,"peak_rss_bytes":{"load":11280384,"test":21184512},"test":"tg32","threads":2,"tokens_per_s":{"mean":6686.135019203105,"sd":656.1050067050958},"version":"0.1.0"}]');
INSERT INTO "cells" VALUES(6,2,'boolq','done','',0.124057069,1,'validation','3402d0e3db59c533c744d9275837c600e8714c410a9f852034ac2b3844b48744',40,0,0,'accuracy',1,2.52597707601235961201e+04,0.0,0.091996646,3457024,3448832,1966080,3472992,21614592,0,NULL);
INSERT INTO "cells" VALUES(10,2,'bench','done','',0.697067978,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,3457024,3448832,393216,1779936,16814080,0,'[{"bandwidth_bytes_per_s":26608726251.70136,"bandwidth_fraction":null,"batch":1,"bits_per_weight":5.585647070989091,"dense_ops_per_s":456746895402.52344,"device":"cpu/avx512","int8_ops_per_s":912987337517.8818,"latency_ms":{"mean":8.874108,"p50":8.692684,"p90":9.285366400000001,"p95":9.359451700000001,"p99":9.41871994},"latency_of":"prompt","load_s":0.002843899,"memory_bytes":{"file":3457024,"kv_cache":393216,"peak_gpu":0,"peak_rss":16814080,"weights":3448832,"workspace":1779936},"model":"out/demo/models/llama-mini.gptq-4bit-g16","parameters":4951296,"peak_fraction":0.14018856108798333,"peak_rss_bytes":{"load":10850304,"test":16814080},"test":"pp128","threads":2,"tokens_per_s":{"mean":14453.122870057203,"sd":784.7228590568453},"version":"0.1.0"},{"bandwidth_bytes_per_s":26608726251.70136,"bandwidth_fraction":null,"batch":1,"bits_per_weight":5.585647070989091,"dense_ops_per_s":456746895402.52344,"device":"cpu/avx512","int8_ops_per_s":912987337517.8818,"latency_ms":{"mean":0.13311923958333338,"p50":0.12307799999999999,"p90":0.16762900000000006,"p95":0.19923874999999996,"p99":0.28804484999999996},"latency_of":"token","load_s":0.002843899,"memory_bytes":{"file":3457024,"kv_cache":98304,"peak_gpu":0,"peak_rss":16814080,"weights":3448832,"workspace":125408},"model":"out/demo/models/llama-mini.gptq-4bit-g16","parameters":4951296,"peak_fraction":null,"peak_rss_bytes":{"load":10850304,"test":15151104},"test":"tg32","threads":2,"tokens_per_s":{"mean":7544.274241442957,"sd":617.483811884036},"version":"0.1.0"}]');
CREATE TABLE checks (
  cell_id INTEGER NOT NULL REFERENCES cells(id), name TEXT NOT NULL, value REAL,
  PRIMARY KEY (cell_id, name)) WITHOUT ROWID;
INSERT INTO "checks" VALUES(1,'answer_share_yes',0.825);
INSERT INTO "checks" VALUES(1,'label_share_yes',0.6);
INSERT INTO "checks" VALUES(1,'majority_accuracy',0.6);
INSERT INTO "checks" VALUES(1,'not_finite',0.0);
INSERT INTO "checks" VALUES(1,'top_answer_share',0.825);
INSERT INTO "checks" VALUES(1,'truncated_prompts',0.0);
INSERT INTO "checks" VALUES(6,'answer_share_yes',0.8);
INSERT INTO "checks" VALUES(6,'label_share_yes',0.6);
INSERT INTO "checks" VALUES(6,'majority_accuracy',0.6);
INSERT INTO "checks" VALUES(6,'not_finite',0.0);
INSERT INTO "checks" VALUES(6,'top_answer_share',0.8);
INSERT INTO "checks" VALUES(6,'truncated_prompts',0.0);
CREATE TABLE latencies (
  cell_id INTEGER NOT NULL REFERENCES cells(id),
  kind TEXT NOT NULL CHECK (kind IN ('response', 'first_token', 'per_token')),
  mean_ms REAL, p50_ms REAL, p90_ms REAL, p95_ms REAL, p99_ms REAL,
  PRIMARY KEY (cell_id, kind)) WITHOUT ROWID;
INSERT INTO "latencies" VALUES(1,'first_token',0.0,0.0,0.0,0.0,0.0);
INSERT INTO "latencies" VALUES(1,'per_token',0.0,0.0,0.0,0.0,0.0);
INSERT INTO "latencies" VALUES(1,'response',2.33845039999999926294e+00,2.22656437499999970697e+00,2.6474256500000006298e+00,2.76617299999999977089e+00,2.76617299999999977089e+00);
INSERT INTO "latencies" VALUES(6,'first_token',0.0,0.0,0.0,0.0,0.0);
INSERT INTO "latencies" VALUES(6,'per_token',0.0,0.0,0.0,0.0,0.0);
INSERT INTO "latencies" VALUES(6,'response',2.073740575,2.08220100000000041262e+00,2.31264265000000035499e+00,2.44222375,2.44222375);
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO "meta" VALUES('cpu','AMD EPYC');
INSERT INTO "meta" VALUES('isa','avx512');
INSERT INTO "meta" VALUES('study_toml','models = [''llama-mini'']
');
INSERT INTO "meta" VALUES('threads','2');
INSERT INTO "meta" VALUES('version','0.1.0');
CREATE TABLE metrics (
  cell_id INTEGER NOT NULL REFERENCES cells(id), name TEXT NOT NULL,
  value REAL, stderr REAL, ci_low REAL, ci_high REAL,
  PRIMARY KEY (cell_id, name)) WITHOUT ROWID;
INSERT INTO "metrics" VALUES(1,'accuracy',0.775,6.68666871181296668114e-02,6.22890865704561647042e-01,8.77792364756274090531e-01);
INSERT INTO "metrics" VALUES(1,'gold_ppl',1.56673619588840473682e+00,0.0819440510233945,1.4094548888837115097e+00,1.74156855027191626028e+00);
INSERT INTO "metrics" VALUES(6,'accuracy',0.75,6.93375245281536434216e-02,5.95996645491905119307e-01,8.59169927654309106834e-01);
INSERT INTO "metrics" VALUES(6,'gold_ppl',1.62409043406800490672e+00,0.0984192821224515,1.43673560890677154411e+00,1.83587691547384501689e+00);
CREATE TABLE samples (
  cell_id INTEGER NOT NULL REFERENCES cells(id), position INTEGER NOT NULL,
  key TEXT NOT NULL, cluster TEXT NOT NULL, score REAL, tokens REAL,
  prediction TEXT NOT NULL, gold TEXT NOT NULL, prompt TEXT NOT NULL, output TEXT NOT NULL, detail TEXT,
  PRIMARY KEY (cell_id, position)) WITHOUT ROWID;
INSERT INTO "samples" VALUES(1,0,'0','0',1.0,0.0,'yes','yes','Mortongate Market is a market in Tollin. Its first purpose was farming. The architect was Arlen Ruud. It was opened in 1618. It is built of concrete.
Question: was mortongate market designed by arlen ruud?
Answer:','yes','{"gold_nll":0.4016815679022301,"gold_tokens":1,"loglik_no":-1.1062857167669762,"loglik_yes":-0.4016815679022301}');
INSERT INTO "samples" VALUES(1,1,'1','1',1.0,0.0,'yes','yes','Narmere Mill, a mill, lies near the centre of Wystan. People used it mainly for defence. It draws 11 thousand guests a year. It was opened in 1978.
Question: was narmere mill opened before 1993?
Answer:','yes','{"gold_nll":0.0017737033124856083,"gold_tokens":1,"loglik_no":-7.769412863468736,"loglik_yes":-0.0017737033124856083}');
INSERT INTO "samples" VALUES(1,2,'2','2',1.0,0.0,'no','no','Torhurst Lighthouse, a lighthouse, lies near the centre of Quill. Felix Marsh drew the plans. It draws 27 thousand guests a year. Its length is 194 metres. Work was finished in 1880. The builders used brick for the whole structure.
Question: was torhurst lighthouse designed by felix tain?
Answer:','no','{"gold_nll":0.0002794970949508979,"gold_tokens":1,"loglik_no":-0.0002794970949508979,"loglik_yes":-13.622977804132304}');
INSERT INTO "samples" VALUES(1,3,'3','3',1.0,0.0,'no','no','Rildane Garden is a garden in Brannoch. The builders used stone for the whole structure. Each year some 7 thousand visitors come. Work was finished in 1773. Its first purpose was fishing.
Question: do more than 8 thousand people visit rildane garden each year?
Answer:','no','{"gold_nll":0.0014633430179564755,"gold_tokens":1,"loglik_no":-0.0014633430179564755,"loglik_yes":-6.533286501282117}');
INSERT INTO "samples" VALUES(1,4,'4','4',1.0,0.0,'yes','yes','The Pelfell Lighthouse stands in Ferrow. About 70 thousand people visit it each year. Its length is 301 metres. The roof is white. Its walls are made of steel. The architect was Cass Ruud.
Question: was pelfell lighthouse designed by cass ruud?
Answer:','yes','{"gold_nll":0.3458020344174013,"gold_tokens":1,"loglik_no":-1.22988864330412,"loglik_yes":-0.3458020344174013}');
INSERT INTO "samples" VALUES(6,0,'0','0',1.0,0.0,'yes','yes','Mortongate Market is a market in Tollin. Its first purpose was farming. The architect was Arlen Ruud. It was opened in 1618. It is built of concrete.
Question: was mortongate market designed by arlen ruud?
Answer:','yes','{"gold_nll":0.39502609860170246,"gold_tokens":1,"loglik_no":-1.119890104644183,"loglik_yes":-0.39502609860170246}');
INSERT INTO "samples" VALUES(6,1,'1','1',1.0,0.0,'yes','yes','Narmere Mill, a mill, lies near the centre of Wystan. People used it mainly for defence. It draws 11 thousand guests a year. It was opened in 1978.
Question: was narmere mill opened before 1993?
Answer:','yes','{"gold_nll":0.0015557963782963924,"gold_tokens":1,"loglik_no":-8.29511797022168,"loglik_yes":-0.0015557963782963924}');
INSERT INTO "samples" VALUES(6,2,'2','2',1.0,0.0,'no','no','Torhurst Lighthouse, a lighthouse, lies near the centre of Quill. Felix Marsh drew the plans. It draws 27 thousand guests a year. Its length is 194 metres. Work was finished in 1880. The builders used brick for the whole structure.
Question: was torhurst lighthouse designed by felix tain?
Answer:','no','{"gold_nll":0.0002029074478144821,"gold_tokens":1,"loglik_no":-0.0002029074478144821,"loglik_yes":-13.593064798240661}');
INSERT INTO "samples" VALUES(6,3,'3','3',1.0,0.0,'no','no','Rildane Garden is a garden in Brannoch. The builders used stone for the whole structure. Each year some 7 thousand visitors come. Work was finished in 1773. Its first purpose was fishing.
Question: do more than 8 thousand people visit rildane garden each year?
Answer:','no','{"gold_nll":0.003791635639769808,"gold_tokens":1,"loglik_no":-0.003791635639769808,"loglik_yes":-5.57956010640393}');
INSERT INTO "samples" VALUES(6,4,'4','4',1.0,0.0,'yes','yes','The Pelfell Lighthouse stands in Ferrow. About 70 thousand people visit it each year. Its length is 301 metres. The roof is white. Its walls are made of steel. The architect was Cass Ruud.
Question: was pelfell lighthouse designed by cass ruud?
Answer:','yes','{"gold_nll":0.3336210954494181,"gold_tokens":1,"loglik_no":-1.2600012529201212,"loglik_yes":-0.3336210954494181}');
CREATE TABLE variants (
  id INTEGER PRIMARY KEY,
  model TEXT NOT NULL, method TEXT NOT NULL, bits INTEGER NOT NULL, group_size INTEGER NOT NULL,
  sha256 TEXT, file_bytes INTEGER, bits_per_weight REAL, parameters INTEGER, quantize_seconds REAL,
  quantization_report TEXT,
  UNIQUE (model, method, bits, group_size));
INSERT INTO "variants" VALUES(1,'llama-mini','baseline',16,0,'ac7390d741d728c678cc99755680b6add44ba9e28b186107aaab53400931878c',9908624,16.0097461351533,4951296,0.0,NULL);
INSERT INTO "variants" VALUES(2,'llama-mini','gptq',4,16,'f7445ed52b0b183e9544fb7b8f17f48e15bf9d1498941f8e73468169530b9293',3457024,5.58564707098909085658e+00,4951296,4.271978319,'{"bits": 4, "calibration": {"samples": 32, "seed": 0, "seqlen": 512, "sha256": "60fe6f7191bfa2f9bca0f0262ca009d825de84ca85f3ea82d1702f2183395a88", "sources": [{"file": "wikitext.train.txt", "samples": 8}, {"file": "gsm8k.train.jsonl", "samples": 8}, {"file": "boolq.train.jsonl", "samples": 8}, {"file": "msmarco.train.jsonl", "samples": 8}], "tokens": 16384}, "calibration_sha256": "60fe6f7191bfa2f9bca0f0262ca009d825de84ca85f3ea82d1702f2183395a88", "group_size": 16, "head_bits": 8, "linears": [{"act_order": false, "bits": 4, "damp": 0.01, "error": 0.0003717329093360133, "fallback": "", "group_size": 16, "method": "gptq", "name": "model.layers.0.self_attn.q_proj", "reason": "", "remainder": 0, "rtn_error": 0.000989791680543371, "scale_exponent": 0.0, "scaled": false, "seconds": 0.018062576, "shape": [256, 256], "symmetric": false}, {"act_order": false, "bits": 4, "damp": 0.01, "error": 0.00027786881143468026, "fallback": "", "group_size": 16, "method": "gptq", "name": "model.layers.0.self_attn.k_proj", "reason": "", "remainder": 0, "rtn_error": 0.0007123301725069142, "scale_exponent": 0.0, "scaled": false, "seconds": 0.027296235, "shape": [128, 256], "symmetric": false}, {"act_order": false, "bits": 4, "damp": 0.01, "error": 0.0016406404791784643, "fallback": "", "group_size": 16, "method": "gptq", "name": "model.layers.0.self_attn.v_proj", "reason": "", "remainder": 0, "rtn_error": 0.004192373601123055, "scale_exponent": 0.0, "scaled": false, "seconds": 0.027974364, "shape": [128, 256], "symmetric": false}], "method": "gptq", "model": "llama-mini", "model_sha256": "f7445ed52b0b183e9544fb7b8f17f48e15bf9d1498941f8e73468169530b9293", "symmetric": false, "totals": {"bits_per_weight": 5.585647070989091, "file_bytes": 3457024, "parameters": 4951296, "peak_rss": 97120256, "seconds": 4.271978319}, "version": "0.1.0", "warnings": []}');
COMMIT;
