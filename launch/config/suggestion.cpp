// SPDX-License-Identifier: Apache-2.0
#include "launch/config/suggestion.h"

#include <algorithm>
#include <cctype>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "launch/config/option.h"
#include "launch/config/option_table.h"
#include "launch/config/values.h"

namespace polymoe {
namespace {

/// What other programs call it, without blanks, dashes and underscores, and our key.
const std::map<std::string, std::string>& synonyms() {
  static const std::map<std::string, std::string> words = {
      {"learningrate", "optimizer.lr"},
      {"maxlr", "optimizer.lr"},
      {"minlearningrate", "optimizer.min_lr"},
      {"warmupsteps", "optimizer.warmup"},
      {"warmupratio", "optimizer.warmup"},
      {"lrscheduler", "optimizer.schedule"},
      {"lrschedulertype", "optimizer.schedule"},
      {"wd", "optimizer.weight_decay"},
      {"maxgradnorm", "optimizer.clip"},
      {"gradclip", "optimizer.clip"},
      {"clipgrad", "optimizer.clip"},
      {"adambeta1", "optimizer.beta1"},
      {"adambeta2", "optimizer.beta2"},
      {"epochs", "train.steps"},
      {"numepochs", "train.steps"},
      {"numtrainepochs", "train.steps"},
      {"maxsteps", "train.steps"},
      {"trainiters", "train.steps"},
      {"iterations", "train.steps"},
      {"batchsize", "train.global_batch"},
      {"globalbatchsize", "train.global_batch"},
      {"microbatchsize", "train.micro_batch"},
      {"perdevicetrainbatchsize", "train.micro_batch"},
      {"activationcheckpointing", "train.recompute"},
      {"gradientcheckpointing", "train.recompute"},
      {"dtype", "train.precision"},
      {"bf16", "train.precision"},
      {"evalinterval", "train.valid_every"},
      {"evalsteps", "train.valid_every"},
      {"seqlen", "model.context"},
      {"seqlength", "model.context"},
      {"sequencelength", "model.context"},
      {"contextlength", "model.context"},
      {"maxseqlen", "model.context"},
      {"blocksize", "model.context"},
      {"hiddensize", "model.hidden"},
      {"dmodel", "model.hidden"},
      {"nembd", "model.hidden"},
      {"dim", "model.hidden"},
      {"numlayers", "model.layers"},
      {"nlayer", "model.layers"},
      {"nlayers", "model.layers"},
      {"numhiddenlayers", "model.layers"},
      {"depth", "model.layers"},
      {"numheads", "model.heads"},
      {"nhead", "model.heads"},
      {"nheads", "model.heads"},
      {"numattentionheads", "model.heads"},
      {"numkeyvalueheads", "model.kv_heads"},
      {"ffnhiddensize", "model.ffn"},
      {"intermediatesize", "model.ffn"},
      {"vocabsize", "model.vocab"},
      {"tieembeddings", "model.tied"},
      {"tiewordembeddings", "model.tied"},
      {"numexperts", "moe.experts"},
      {"nexperts", "moe.experts"},
      {"numlocalexperts", "moe.experts"},
      {"numexpertspertok", "moe.top_k"},
      {"routertopk", "moe.top_k"},
      {"moeroutertopk", "moe.top_k"},
      {"moeffnhiddensize", "moe.expert_ffn"},
      {"moeintermediatesize", "moe.expert_ffn"},
      {"skew", "moe.row_budget"},
      {"auxlosscoef", "moe.balance_loss"},
      {"moeauxlosscoeff", "moe.balance_loss"},
      {"routerauxlosscoef", "moe.balance_loss"},
      {"moezlosscoeff", "moe.z_loss"},
      {"expertparallel", "parallel.expert"},
      {"expertmodelparallelsize", "parallel.expert"},
      {"ep", "parallel.expert"},
      {"epsize", "parallel.expert"},
      {"outputdir", "run.dir"},
      {"output", "run.dir"},
      {"savedir", "run.dir"},
      {"saveinterval", "checkpoint.every"},
      {"savesteps", "checkpoint.every"},
      {"savetotallimit", "checkpoint.keep"},
      {"resumefromcheckpoint", "checkpoint.resume"},
      {"load", "checkpoint.resume"},
      {"numthreads", "run.threads"},
      {"dataset", "data.train"},
      {"datapath", "data.train"},
      {"traindata", "data.train"},
      {"validdata", "data.valid"},
  };
  return words;
}

}  // namespace

std::string suggested_key(std::string_view name) {
  const std::string_view end = name.substr(name.rfind('.') + 1);  // npos + 1 = 0
  std::vector<std::string> keys;
  for (const Option& option : options()) {
    keys.push_back(option.key);
    if (option.key.ends_with("." + std::string(end))) return option.key;
  }
  std::string word;
  for (const char c : end)
    if (c != '_' && c != '-' && c != ' ') word += static_cast<char>(std::tolower(c));
  const auto synonym = synonyms().find(word);
  if (synonym != synonyms().end()) return synonym->second;
  std::string spelled(name);
  std::replace(spelled.begin(), spelled.end(), '-', '_');
  return nearest(spelled, keys);
}

}  // namespace polymoe
